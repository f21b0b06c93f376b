#include "blocks/gguf.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "blocks/file.h"

namespace tangram {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little-endian");

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr int64_t kAlignment = 32, kMostAlignment = 1 << 16;
constexpr uint64_t kMostKeys = 1 << 16, kMostTensors = 1 << 16, kMostNameBytes = 1 << 10;
constexpr int64_t kMostElements = int64_t{1} << 40;
constexpr int64_t kBlock = 32;  // elements of Q8_0 that share a scale
constexpr int64_t kBlockBytes = 2 + kBlock;
constexpr float kLargestF16 = 65504;

/// Types of metadata values, as numbered in the file.
enum class Kind : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& out, std::string_view text) { put<uint64_t>(out, text.size()), out += text; }

template <class T, class F>
void put_array(std::string& out, const std::vector<T>& values, Kind kind, const F& put_element) {
  put(out, Kind::array), put(out, kind), put<uint64_t>(out, values.size());
  for (const T& value : values) put_element(value);
}

uint32_t checked_u32(int64_t value) {
  CHECK(value >= 0 && value <= UINT32_MAX, "{} is no u32", value);
  return static_cast<uint32_t>(value);
}

void put_value(std::string& out, const GgufValue& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    put(out, Kind::u32), put(out, checked_u32(*integer));
  } else if (const auto* number = std::get_if<double>(&value)) {
    put(out, Kind::f32), put(out, static_cast<float>(*number));
  } else if (const auto* flag = std::get_if<bool>(&value)) {
    put(out, Kind::boolean), put<uint8_t>(out, *flag);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    put(out, Kind::string), put_text(out, *text);
  } else if (const auto* integers = std::get_if<std::vector<int64_t>>(&value)) {
    put_array(out, *integers, Kind::i32, [&](int64_t v) { put(out, static_cast<int32_t>(v)); });
  } else if (const auto* numbers = std::get_if<std::vector<double>>(&value)) {
    put_array(out, *numbers, Kind::f32, [&](double v) { put(out, static_cast<float>(v)); });
  } else {
    const auto& texts = std::get<std::vector<std::string>>(value);
    put_array(out, texts, Kind::string, [&](const std::string& v) { put_text(out, v); });
  }
}

int64_t bytes_of(const GgufTensor& t) { return t.rows * row_bytes(t.type, t.cols); }

std::string header_of(const GgufMetadata& metadata, std::span<const GgufTensor> tensors) {
  std::string out(kMagic);
  put(out, kVersion), put<uint64_t>(out, tensors.size()), put<uint64_t>(out, metadata.size());
  for (const auto& [key, value] : metadata) put_text(out, key), put_value(out, value);
  int64_t offset = 0;
  for (const GgufTensor& t : tensors) {
    put_text(out, t.name);
    put<uint32_t>(out, t.rows == 1 ? 1 : 2), put<int64_t>(out, t.cols);  // the fastest dimension first
    if (t.rows != 1) put(out, t.rows);
    put(out, t.type), put<uint64_t>(out, static_cast<uint64_t>(offset));
    offset += round_up(bytes_of(t), kAlignment);
  }
  out.resize(static_cast<size_t>(round_up(int64_t(out.size()), kAlignment)));
  return out;
}

bool fits_in(GgufType type, std::span<const float> row) {
  if (type != GgufType::f16) return true;
  return std::none_of(row.begin(), row.end(), [](float x) { return std::abs(x) > kLargestF16; });
}

void write_rows(AtomicFile& file, const GgufTensor& t, int threads) {
  constexpr int64_t kPartBytes = 8 << 20;
  const int64_t bytes = row_bytes(t.type, t.cols);
  const int64_t part = std::clamp<int64_t>(kPartBytes / std::max<int64_t>(bytes, 1), 1, t.rows);
  std::string buffer;
  for (int64_t first = 0; first < t.rows; first += part) {
    const int64_t count = std::min(part, t.rows - first);
    const auto rows_from = [&](int64_t r) { return t.mapped.row_range(r, std::min(part, t.rows - r)); };
    if (t.mapped.data && first + part < t.rows)
      advise_soon(rows_from(first + part).data, rows_from(first + part).bytes());
    buffer.resize(static_cast<size_t>(count * bytes));
    std::atomic<bool> fits = true;
#pragma omp parallel num_threads(threads)
    {
      std::vector<float> row(static_cast<size_t>(t.cols));
#pragma omp for schedule(static)
      for (int64_t r = 0; r < count; ++r) {
        t.row(row, first + r);
        if (!fits_in(t.type, row)) fits = false;
        encode_row(buffer.data() + r * bytes, t.type, row);
      }
    }
    if (!fits)
      throw bad_input("tensor '{}': a value beyond {:.0f}, the largest of {}; write it as BF16 or F32", t.name,
                      kLargestF16, name_of(t.type));
    file.write(buffer);
    if (t.mapped.data) advise_done(rows_from(first).data, rows_from(first).bytes());
  }
  file.write(std::string(static_cast<size_t>(round_up(bytes_of(t), kAlignment) - bytes_of(t)), '\0'));
}

void encode_q8(char* out, std::span<const float> row) {
  for (size_t b = 0; b < row.size(); b += kBlock, out += kBlockBytes) {
    float largest = 0;
    for (size_t i = b; i < b + kBlock; ++i) largest = std::max(largest, std::abs(row[i]));
    const float scale = largest / 127, inverse = scale > 0 ? 1 / scale : 0;
    const uint16_t stored = f32_to_f16(scale);
    std::memcpy(out, &stored, sizeof stored);
    for (size_t i = 0; i < kBlock; ++i)
      out[sizeof stored + i] = static_cast<char>(static_cast<int8_t>(std::round(row[b + i] * inverse)));
  }
}

void decode_q8(std::span<float> out, const char* in) {
  for (size_t b = 0; b < out.size(); b += kBlock, in += kBlockBytes) {
    uint16_t stored;
    std::memcpy(&stored, in, sizeof stored);
    const float scale = f16_to_f32(stored);
    for (size_t i = 0; i < kBlock; ++i)
      out[b + i] = scale * static_cast<float>(static_cast<int8_t>(in[sizeof stored + i]));
  }
}

/// Reads the header from front to back; every length is checked against what is left.
class GgufReader {
 public:
  GgufReader(std::string_view file, const std::string& name) : file_(file), name_(name) {}

  GgufFile read() {
    GgufFile result{.name = name_, .metadata = {}, .tensors = {}, .memory = {}};
    if (file_.substr(0, kMagic.size()) != kMagic) throw bad_input("{}: is no GGUF file", name_);
    at_ = kMagic.size();
    const auto version = take<uint32_t>();
    if (version != 2 && version != kVersion)
      throw bad_input("{}: version {} of GGUF; allowed: 2 and 3, little-endian", name_, version);
    const auto tensors = take<uint64_t>(), keys = take<uint64_t>();
    if (tensors > kMostTensors || keys > kMostKeys)
      throw bad_input("{}: {} tensors and {} keys; allowed: at most {} and {}", name_, tensors, keys, kMostTensors,
                      kMostKeys);
    for (uint64_t i = 0; i < keys; ++i) read_key(result);
    read_tensors(result, tensors);
    return result;
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw bad_input("{}: {}", name_, fmt::format(format, std::forward<Args>(args)...));
  }

  void need(uint64_t bytes) const {
    if (bytes > file_.size() - at_)
      fail("{} bytes are missing behind byte {}: the file is cut short or damaged", bytes - (file_.size() - at_), at_);
  }

  template <class T>
  T take() {
    need(sizeof(T));
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  std::string take_text(uint64_t at_most) {
    const auto bytes = take<uint64_t>();
    if (bytes > at_most) fail("a text of {} bytes at byte {}; allowed: at most {}", bytes, at_, at_most);
    need(bytes);
    at_ += bytes;
    return std::string(file_.substr(at_ - bytes, bytes));
  }

  std::string take_name() {
    std::string name = take_text(kMostNameBytes);
    if (name.empty() || name.find('\0') != std::string::npos) fail("an empty or broken name before byte {}", at_);
    return name;
  }

  void read_key(GgufFile& result) {
    const std::string key = take_name();
    what_ = fmt::format("key '{:.100}'", key);
    if (!result.metadata.emplace(key, take_value(take<Kind>())).second) fail("{} is there twice", what_);
  }

  GgufValue take_value(Kind kind) {
    if (kind == Kind::array) return take_array();
    if (kind == Kind::string) return take_text(file_.size());
    if (kind == Kind::boolean) return take_flag();
    if (kind == Kind::f32 || kind == Kind::f64) return take_number(kind);
    return take_integer(kind);
  }

  bool take_flag() {
    const auto flag = take<uint8_t>();
    if (flag > 1) fail("{}: {} is neither true nor false", what_, flag);
    return flag == 1;
  }

  double take_number(Kind kind) { return kind == Kind::f32 ? double(take<float>()) : take<double>(); }

  int64_t take_integer(Kind kind) {
    switch (kind) {
      case Kind::u8:
        return take<uint8_t>();
      case Kind::i8:
        return take<int8_t>();
      case Kind::u16:
        return take<uint16_t>();
      case Kind::i16:
        return take<int16_t>();
      case Kind::u32:
        return take<uint32_t>();
      case Kind::i32:
        return take<int32_t>();
      case Kind::i64:
        return take<int64_t>();
      case Kind::u64: {
        const auto value = take<uint64_t>();
        if (value > uint64_t{INT64_MAX}) fail("{}: {} is too large", what_, value);
        return static_cast<int64_t>(value);
      }
      default:
        fail("{}: type {} of values; allowed: 0 to 12", what_, static_cast<uint32_t>(kind));
    }
  }

  GgufValue take_array() {
    const Kind kind = take<Kind>();
    const auto count = take<uint64_t>();
    const uint64_t least = kind == Kind::string ? sizeof(uint64_t) : 1;  // bytes of an element
    if (kind == Kind::array) fail("{}: an array of arrays", what_);
    if (count > (file_.size() - at_) / least) fail("{}: {} elements, more than the file can hold", what_, count);
    if (kind == Kind::string) return take_elements<std::string>(count, [&] { return take_text(file_.size()); });
    if (kind == Kind::f32 || kind == Kind::f64) return take_elements<double>(count, [&] { return take_number(kind); });
    if (kind == Kind::boolean) return take_elements<int64_t>(count, [&] { return int64_t{take_flag()}; });
    return take_elements<int64_t>(count, [&] { return take_integer(kind); });
  }

  template <class T, class F>
  std::vector<T> take_elements(uint64_t count, const F& take_element) {
    std::vector<T> values;
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i) values.push_back(take_element());
    return values;
  }

  struct Placed {
    std::string name;
    StoredTensor tensor;
    uint64_t offset, bytes;
  };

  Placed take_tensor() {
    Placed placed{.name = take_name(), .tensor = {GgufType::f32, 1, 1, nullptr}, .offset = 0, .bytes = 0};
    what_ = fmt::format("tensor '{:.100}'", placed.name);
    const auto dimensions = take<uint32_t>();
    if (dimensions < 1 || dimensions > 4) fail("{}: {} dimensions; allowed: 1 to 4", what_, dimensions);
    for (uint32_t d = 0; d < dimensions; ++d) {
      const auto size = take<int64_t>();
      if (size < 1 || size > kMostElements || (d > 1 && size != 1))
        fail("{}: {} elements in dimension {}; two dimensions are read", what_, size, d);
      if (d < 2) (d == 0 ? placed.tensor.cols : placed.tensor.rows) = size;
    }
    if (placed.tensor.rows > kMostElements / placed.tensor.cols) fail("{}: too many elements", what_);
    placed.tensor.type = take_type();
    if (!can_store(placed.tensor.type, placed.tensor.cols))
      fail("{}: rows of {} elements in {}", what_, placed.tensor.cols, name_of(placed.tensor.type));
    placed.offset = take<uint64_t>();
    placed.bytes =
        static_cast<uint64_t>(placed.tensor.rows) * uint64_t(row_bytes(placed.tensor.type, placed.tensor.cols));
    return placed;
  }

  GgufType take_type() {
    const auto type = take<GgufType>();
    if (type != GgufType::f32 && type != GgufType::f16 && type != GgufType::q8_0 && type != GgufType::bf16)
      fail("{}: type {}; allowed: 0 (F32), 1 (F16), 8 (Q8_0), 30 (BF16)", what_, static_cast<uint32_t>(type));
    return type;
  }

  int64_t alignment(const GgufFile& result) {
    if (!result.has("general.alignment")) return kAlignment;
    const auto alignment = result.at<int64_t>("general.alignment");
    if (alignment < 1 || alignment > kMostAlignment || !std::has_single_bit(uint64_t(alignment)))
      fail("general.alignment: found {}; allowed: a power of two up to {}", alignment, kMostAlignment);
    return alignment;
  }

  void read_tensors(GgufFile& result, uint64_t count) {
    std::vector<Placed> all;
    for (uint64_t i = 0; i < count; ++i) all.push_back(take_tensor());
    const int64_t align = alignment(result);
    const auto start = static_cast<uint64_t>(round_up(int64_t(at_), align));
    if (start > file_.size() && count > 0) fail("the file ends before its tensors");
    const uint64_t data_bytes = count > 0 ? file_.size() - start : 0;
    std::sort(all.begin(), all.end(), [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
    uint64_t covered = 0;
    for (Placed& p : all) {
      what_ = fmt::format("tensor '{:.100}'", p.name);
      if (p.offset % uint64_t(align) != 0) fail("{}: begins at byte {}, not a multiple of {}", what_, p.offset, align);
      if (p.offset < covered) fail("{}: begins inside of the tensor before it", what_);
      if (p.offset > data_bytes || p.bytes > data_bytes - p.offset)
        fail("{}: ends behind the end of the file: it is cut short or damaged", what_);
      covered = p.offset + p.bytes;
      p.tensor.data = file_.data() + start + p.offset;
      if (!result.tensors.emplace(p.name, p.tensor).second) fail("{} is there twice", what_);
    }
  }

  std::string_view file_;
  const std::string& name_;
  std::string what_;
  size_t at_ = 0;
};

template <class Map>
[[noreturn]] void refuse_absent(const std::string& file, const char* what, const std::string& key, const Map& map) {
  std::vector<std::string> known;
  for (const auto& [name, ignored] : map) known.push_back(name);
  const std::string nearest = nearest_name(key, known);
  throw bad_input("{}: no {} '{}'{}", file, what, key,
                  nearest.empty() ? "" : fmt::format("; the nearest is '{:.100}'", nearest));
}

}  // namespace

std::string_view name_of(GgufType type) {
  switch (type) {
    case GgufType::f32:
      return "F32";
    case GgufType::f16:
      return "F16";
    case GgufType::q8_0:
      return "Q8_0";
    case GgufType::bf16:
      return "BF16";
  }
  return "?";
}

bool can_store(GgufType type, int64_t cols) { return type != GgufType::q8_0 || cols % kBlock == 0; }

int64_t row_bytes(GgufType type, int64_t cols) {
  if (type == GgufType::q8_0) return cols / kBlock * kBlockBytes;
  return cols * (type == GgufType::f32 ? 4 : 2);
}

void encode_row(char* out, GgufType type, std::span<const float> row) {
  if (type == GgufType::q8_0) return encode_q8(out, row);
  if (type == GgufType::f32) {
    std::memcpy(out, row.data(), row.size_bytes());
    return;
  }
  for (size_t i = 0; i < row.size(); ++i) {
    const uint16_t bits = type == GgufType::f16 ? f32_to_f16(row[i]) : bf16(row[i]).bits;
    std::memcpy(out + 2 * i, &bits, sizeof bits);
  }
}

void decode_row(std::span<float> out, GgufType type, const char* row) {
  if (type == GgufType::q8_0) return decode_q8(out, row);
  if (type == GgufType::f32) {
    std::memcpy(out.data(), row, out.size_bytes());
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * i, sizeof bits);
    out[i] = type == GgufType::f16 ? f16_to_f32(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
  }
}

void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata, std::span<const GgufTensor> tensors,
                int threads) {
  for (const GgufTensor& t : tensors)
    CHECK(can_store(t.type, t.cols), "tensor '{}': rows of {} elements in {}", t.name, t.cols, name_of(t.type));
  AtomicFile file(path);
  file.write(header_of(metadata, tensors));
  for (const GgufTensor& t : tensors) write_rows(file, t, threads);
  file.commit();
}

const GgufValue& GgufFile::value_at(const std::string& key) const {
  const auto found = metadata.find(key);
  if (found == metadata.end()) refuse_absent(name, "key", key, metadata);
  return found->second;
}

const StoredTensor& GgufFile::tensor(const std::string& tensor, int64_t rows, int64_t cols) const {
  const auto found = tensors.find(tensor);
  if (found == tensors.end()) refuse_absent(name, "tensor", tensor, tensors);
  const StoredTensor& t = found->second;
  if (t.rows != rows || t.cols != cols)
    throw bad_input("{}: tensor '{}' is ({}, {}) where ({}, {}) is expected", name, tensor, t.rows, t.cols, rows, cols);
  return t;
}

GgufFile parse_gguf(std::string_view file, const std::string& name) { return GgufReader(file, name).read(); }

GgufFile read_gguf(const std::filesystem::path& path) {
  const auto file = std::make_shared<MappedFile>(path);
  GgufFile result = parse_gguf(file->bytes(), path.string());
  result.memory = file;
  return result;
}

}  // namespace tangram
