#include "blocks/safetensors.h"

#include <algorithm>
#include <set>

#include "blocks/file.h"
#include "blocks/json.h"
#include "blocks/model.h"
#include "kernels/arena.h"
#include "kernels/transfer.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

using json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors are stored little-endian");

constexpr uint64_t kPrefixBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference reader
constexpr int kHeaderDepth = 3;                    // all tensors, one tensor, its shape
constexpr int64_t kDataAlignment = 64;
constexpr int64_t kMaxIndexBytes = 100'000'000;
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16, DType::i32, DType::i64, DType::u8};

std::string type_name(DType dtype) {
  std::string text(name_of(dtype));
  for (char& c : text) c = static_cast<char>(std::toupper(c));
  return text;
}

/// A tensor of the header, with the place of its bytes in the data.
struct Entry {
  std::string name;
  Tensor tensor;
  int64_t begin, end;
};

/// Reads and checks one entry of the header; `what` begins messages.
class EntryReader {
 public:
  EntryReader(const json& value, std::string what, int64_t data_bytes)
      : value_(value), what_(std::move(what)), data_bytes_(data_bytes) {}

  Entry read(const std::string& name) const {
    if (!value_.is_object()) refuse(fmt::format("{} where an object is expected", value_.type_name()));
    for (const auto& [key, ignored] : value_.items())
      if (key != "dtype" && key != "shape" && key != "data_offsets")
        refuse(fmt::format("the key '{:.100}'; allowed: dtype, shape, data_offsets", key));
    Entry entry{.name = name, .tensor = read_shape(), .begin = 0, .end = 0};
    entry.tensor.dtype = read_dtype();
    read_offsets(entry);
    return entry;
  }

 private:
  [[noreturn]] void refuse(const std::string& found) const { throw bad_input("{}: {}", what_, found); }

  const json& at(const char* key) const {
    const auto found = value_.find(key);
    if (found == value_.end()) refuse(fmt::format("no key '{}'", key));
    return *found;
  }

  DType read_dtype() const {
    const json& value = at("dtype");
    std::vector<std::string> known;
    for (const DType dtype : kTypes) {
      known.push_back(type_name(dtype));
      if (value == known.back()) return dtype;
    }
    refuse(fmt::format("dtype {:.100}; allowed: {}", value.dump(), fmt::join(known, ", ")));
  }

  std::vector<int64_t> read_numbers(const char* key, size_t at_most) const {
    const json& value = at(key);
    if (!value.is_array() || value.size() > at_most)
      refuse(fmt::format("{} {:.100}; allowed: a list of at most {} numbers", key, value.dump(), at_most));
    std::vector<int64_t> numbers;
    for (const json& number : value) {
      if (!number.is_number_unsigned() || number.get<uint64_t>() > uint64_t{INT64_MAX})
        refuse(fmt::format("{} {:.100}; allowed: whole numbers from 0 on", key, value.dump()));
      numbers.push_back(number.get<int64_t>());
    }
    return numbers;
  }

  Tensor read_shape() const {
    const std::vector<int64_t> shape = read_numbers("shape", 2);
    const int64_t rows = shape.size() == 2 ? shape[0] : 1, cols = shape.empty() ? 1 : shape.back();
    return {.data = nullptr, .rows = rows, .cols = cols, .stride = cols};
  }

  void read_offsets(Entry& entry) const {
    const std::vector<int64_t> offsets = read_numbers("data_offsets", 2);
    const Tensor& t = entry.tensor;
    if (offsets.size() != 2 || offsets[0] > offsets[1])
      refuse(fmt::format("data_offsets [{}]; allowed: [begin, end] with begin <= end", fmt::join(offsets, ", ")));
    entry.begin = offsets[0], entry.end = offsets[1];
    if (entry.end > data_bytes_)
      refuse(fmt::format("ends at byte {} of the data, but the file has only {}: it is cut short or damaged", entry.end,
                         data_bytes_));
    int64_t bytes;
    if (__builtin_mul_overflow(t.rows, t.cols, &bytes) || __builtin_mul_overflow(bytes, size_of(t.dtype), &bytes) ||
        bytes != entry.end - entry.begin)
      refuse(fmt::format("the shape ({}, {}) of {} does not take the {} bytes that data_offsets [{}] give it", t.rows,
                         t.cols, type_name(t.dtype), entry.end - entry.begin, fmt::join(offsets, ", ")));
  }

  const json& value_;
  std::string what_;
  int64_t data_bytes_;
};

std::string_view header_of(std::string_view file, const std::string& name) {
  if (file.size() < kPrefixBytes) throw bad_input("{}: {} bytes are no safetensors file", name, file.size());
  uint64_t length;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kMaxHeaderBytes)
    throw bad_input("{}: a header of {} bytes; allowed: at most {}. Is it a safetensors file?", name, length,
                    kMaxHeaderBytes);
  if (length > file.size() - kPrefixBytes)
    throw bad_input("{}: a header of {} bytes in a file of {}: it is cut short or damaged", name, length, file.size());
  const std::string_view header = file.substr(kPrefixBytes, length);
  if (!header.starts_with('{')) throw bad_input("{}: the header does not start with '{{'", name);
  return header;
}

std::map<std::string, std::string> read_metadata(const json& value, const std::string& name) {
  std::map<std::string, std::string> metadata;
  if (!value.is_object()) throw bad_input("{}: __metadata__ is no object", name);
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) throw bad_input("{}: __metadata__: '{:.100}' is no string", name, key);
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

/// The tensors have to cover the data without overlaps and holes: two readers can then see no two things in one file.
void check_cover(std::vector<Entry>& entries, int64_t data_bytes, const std::string& name) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t covered = 0;
  for (const Entry& e : entries) {
    if (e.begin < covered)
      throw bad_input("{}: tensor '{:.100}' begins at byte {} of the data, inside of the tensor before it", name,
                      e.name, e.begin);
    if (e.begin > covered)
      throw bad_input("{}: bytes {} to {} of the data, before tensor '{:.100}', belong to no tensor", name, covered,
                      e.begin, e.name);
    covered = e.end;
  }
  if (covered != data_bytes) throw bad_input("{}: the last {} bytes belong to no tensor", name, data_bytes - covered);
}

// An empty tensor has no elements that could lie badly, and a copy of it no memory.
bool is_aligned(const Entry& e, const char* data) {
  return e.begin == e.end ||
         reinterpret_cast<uintptr_t>(data + e.begin) % static_cast<uintptr_t>(size_of(e.tensor.dtype)) == 0;
}

/// Points the tensors at their bytes, or at aligned copies of them.
void place(SafeTensors& result, const std::vector<Entry>& entries, const char* data) {
  int64_t copied_bytes = 0;
  for (const Entry& e : entries)
    if (!is_aligned(e, data)) copied_bytes += round_up(e.end - e.begin, kDataAlignment);
  const auto arena = copied_bytes > 0 ? std::make_shared<Arena>(copied_bytes) : nullptr;
  if (arena) result.memory.push_back(arena);
  for (const Entry& e : entries) {
    Tensor& t = result.tensors[e.name] = e.tensor;
    t.data = const_cast<char*>(data + e.begin);
    if (is_aligned(e, data)) continue;
    t = arena->tensor(t.rows, t.cols, t.dtype);
    std::memcpy(t.data, data + e.begin, static_cast<size_t>(e.end - e.begin));
  }
}

}  // namespace

Tensor SafeTensors::at(const std::string& tensor, int64_t rows, int64_t cols) const {
  const auto found = tensors.find(tensor);
  if (found == tensors.end()) {
    std::vector<std::string> known;
    for (const auto& [key, ignored] : tensors) known.push_back(key);
    const std::string nearest = nearest_name(tensor, known);
    throw bad_input("{}: no tensor '{}'{}", name, tensor,
                    nearest.empty() ? "" : fmt::format("; the nearest is '{}'", nearest));
  }
  const Tensor t = found->second;
  if (t.rows != rows || t.cols != cols)
    throw bad_input("{}: tensor '{}' is ({}, {}) where ({}, {}) is expected", name, tensor, t.rows, t.cols, rows, cols);
  return t;
}

SafeTensors parse_safetensors(std::string_view file, const std::string& name) {
  const std::string_view header = header_of(file, name);
  const std::string_view data = file.substr(kPrefixBytes + header.size());
  const json root = parse_json(header, name + ": header", kHeaderDepth);
  SafeTensors result{.name = name, .tensors = {}, .metadata = {}, .memory = {}};
  std::vector<Entry> entries;
  for (const auto& [key, value] : root.items()) {
    if (key == "__metadata__")
      result.metadata = read_metadata(value, name);
    else
      entries.push_back(
          EntryReader(value, fmt::format("{}: tensor '{:.100}'", name, key), int64_t(data.size())).read(key));
  }
  check_cover(entries, int64_t(data.size()), name);
  place(result, entries, data.data());
  return result;
}

SafeTensors read_safetensors(const fs::path& path) {
  const auto file = std::make_shared<MappedFile>(path);
  SafeTensors result = parse_safetensors(file->bytes(), path.string());
  result.memory.push_back(file);
  return result;
}

static std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const json root = parse_json(read_text_file(index, kMaxIndexBytes), index.string(), kHeaderDepth);
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object())
    throw bad_input("{}: no object 'weight_map'", index.string());
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!name.ends_with(".safetensors") || fs::path(name).filename() != name || name.find('\0') != std::string::npos)
      throw bad_input("{}: tensor '{:.100}': {:.100}; allowed: the name of a .safetensors file in the same folder",
                      index.string(), tensor, file.dump());
    weight_map[tensor] = name;
  }
  return weight_map;
}

SafeTensors read_safetensors_folder(const fs::path& folder) {
  std::error_code unreadable;  // is as bad as absent
  const auto stands_there = [&](const fs::path& path) { return fs::exists(fs::symlink_status(path, unreadable)); };
  if (stands_there(folder / kSingleFile)) return read_safetensors(folder / kSingleFile);
  const fs::path index = folder / kIndexFile;
  if (!stands_there(index)) throw bad_input("{}: neither {} nor {} is there", folder.string(), kSingleFile, kIndexFile);
  const std::map<std::string, std::string> weight_map = read_weight_map(index);
  std::set<std::string> files;
  for (const auto& [tensor, file] : weight_map) files.insert(file);
  SafeTensors result{.name = folder.string(), .tensors = {}, .metadata = {}, .memory = {}};
  for (const std::string& file : files) {
    SafeTensors shard = read_safetensors(folder / file);
    for (const auto& [tensor, view] : shard.tensors)
      if (const auto mapped = weight_map.find(tensor); mapped == weight_map.end() || mapped->second != file)
        throw bad_input("{}: tensor '{:.100}' is in {}, where the index does not list it", index.string(), tensor,
                        file);
    result.tensors.merge(shard.tensors);
    result.metadata.merge(shard.metadata);
    result.memory.insert(result.memory.end(), shard.memory.begin(), shard.memory.end());
  }
  for (const auto& [tensor, file] : weight_map)
    if (!result.tensors.contains(tensor))
      throw bad_input("{}: tensor '{:.100}' is not in {}", index.string(), tensor, file);
  return result;
}

std::string safetensors_header(std::span<const NamedTensor> tensors,
                               const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  header["__metadata__"]["format"] = "pt";  // transformers refuses a file without it
  int64_t offset = 0;
  for (const NamedTensor& t : tensors) {
    CHECK(!header.contains(t.name), "two tensors are called '{}'", t.name);
    std::vector<int64_t> shape{t.tensor.cols};
    if (t.tensor.rows != 1) shape.insert(shape.begin(), t.tensor.rows);
    header[t.name] = {
        {"dtype", type_name(t.tensor.dtype)}, {"shape", shape}, {"data_offsets", {offset, offset + t.tensor.bytes()}}};
    offset += t.tensor.bytes();
  }
  std::string text = header.dump();
  text.resize(static_cast<size_t>(round_up(int64_t(kPrefixBytes + text.size()), kDataAlignment)) - kPrefixBytes, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

static std::string_view bytes_of(Tensor t) { return {static_cast<const char*>(t.data), size_t(t.bytes())}; }

/// A tensor of a GPU, of which a part is in host memory at a time.
static void write_from_gpu(AtomicFile& file, Tensor rows, Context& ctx) {
  const int64_t part = (int64_t{64} << 20) / size_of(rows.dtype);
  for (int64_t r = 0; r < rows.rows; ++r)
    for (int64_t c = 0; c < rows.cols; c += part)
      file.write(bytes_of(HostView(rows.row_range(r, 1).col_range(c, std::min(part, rows.cols - c)), ctx).tensor()));
}

/// Parts that are written one after the other, while those behind are read from their file.
static void write_from_host(AtomicFile& file, std::span<const Tensor> tensors, bool release) {
  constexpr int64_t kPartBytes = 8 << 20;
  constexpr size_t kAhead = 8;
  std::vector<Tensor> parts;
  for (const Tensor& t : tensors) {
    const Tensor rows = t.contiguous() ? t.reshape(1, t.size()) : t;
    const int64_t part = kPartBytes / size_of(t.dtype);
    for (int64_t r = 0; r < rows.rows; ++r)
      for (int64_t c = 0; c < rows.cols; c += part)
        parts.push_back(rows.row_range(r, 1).col_range(c, std::min(part, rows.cols - c)));
  }
  const auto soon = [&](size_t i) {
    if (release && i < parts.size()) advise_soon(parts[i].data, parts[i].bytes());
  };
  for (size_t i = 0; i < kAhead; ++i) soon(i);
  for (size_t i = 0; i < parts.size(); ++i) {
    soon(i + kAhead);
    file.write(bytes_of(parts[i]));
    if (release) advise_done(parts[i].data, parts[i].bytes());
  }
}

void write_safetensors(const fs::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata, Context* ctx, bool release) {
  std::vector<NamedTensor> ordered(tensors.begin(), tensors.end());
  std::stable_sort(ordered.begin(), ordered.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return size_of(a.tensor.dtype) > size_of(b.tensor.dtype);
  });
  AtomicFile file(path);
  file.write(safetensors_header(ordered, metadata));
  std::vector<Tensor> on_host;
  for (const NamedTensor& t : ordered) {
    if (t.tensor.device == Device::cpu) {
      on_host.push_back(t.tensor);
      continue;
    }
    CHECK(ctx, "tensors of a GPU are written with its context");
    write_from_host(file, std::exchange(on_host, {}), release);
    write_from_gpu(file, t.tensor.contiguous() ? t.tensor.reshape(1, t.tensor.size()) : t.tensor, *ctx);
  }
  write_from_host(file, on_host, release);
  file.commit();
}

/// Groups in order, cut where a shard would grow beyond `max_shard_bytes`.
static std::vector<std::vector<NamedTensor>> make_shards(std::span<const std::vector<NamedTensor>> groups,
                                                         int64_t max_shard_bytes) {
  std::vector<std::vector<NamedTensor>> shards(1);
  int64_t shard_bytes = 0;
  for (const std::vector<NamedTensor>& group : groups) {
    int64_t bytes = 0;
    for (const NamedTensor& t : group) bytes += t.tensor.bytes();
    if (!shards.back().empty() && shard_bytes + bytes > max_shard_bytes) shards.emplace_back(), shard_bytes = 0;
    shards.back().insert(shards.back().end(), group.begin(), group.end());
    shard_bytes += bytes;
  }
  return shards;
}

void write_safetensors_folder(const fs::path& folder, std::span<const std::vector<NamedTensor>> groups,
                              int64_t max_shard_bytes, bool release) {
  const std::vector<std::vector<NamedTensor>> shards = make_shards(groups, max_shard_bytes);
  if (shards.size() == 1) return write_safetensors(folder / kSingleFile, shards[0], {}, nullptr, release);
  int64_t total_bytes = 0;
  json weight_map = json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(folder / file, shards[i], {}, nullptr, release);
    for (const NamedTensor& t : shards[i]) {
      CHECK(!weight_map.contains(t.name), "two tensors are called '{}'", t.name);
      weight_map[t.name] = file;
      total_bytes += t.tensor.bytes();
    }
  }
  const json index{{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}};
  write_file_atomically(folder / kIndexFile, index.dump(2) + "\n");
}

}  // namespace tangram
