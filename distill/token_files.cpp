#include "distill/token_files.h"

#include <algorithm>
#include <map>

#include "blocks/file.h"
#include "blocks/model.h"
#include "blocks/safetensors.h"
#include "distill/documents.h"

namespace tangram {
namespace {

constexpr const char *kTextKey = "text_digest", *kTokenizerKey = "tokenizer_digest";

template <class T>
NamedTensor named(std::string name, std::span<const T> values, int64_t rows) {
  return {std::move(name), view_of(values.data(), rows, static_cast<int64_t>(values.size()) / rows)};
}

template <class T>
std::span<const T> values_of(const SafeTensors& file, const std::string& name, int64_t rows, int64_t cols) {
  const Tensor t = file.at(name, rows, cols);
  if (t.dtype != dtype_of<T>())
    throw bad_input("{}: '{}' is {}, not {}", file.name, name, name_of(t.dtype), name_of(dtype_of<T>()));
  return {t.as<const T>(), static_cast<size_t>(t.size())};
}

const Tensor& find_tensor(const SafeTensors& file, const std::string& name) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end())
    throw bad_input("{}: no tensor '{}', so these are no packed tokens", file.name, name);
  return found->second;
}

void check_origin(const SafeTensors& file, const TokenOrigin& origin) {
  const auto check = [&](const char* key, const std::string& wanted, const char* what) {
    const auto found = file.metadata.find(key);
    if (found == file.metadata.end()) throw bad_input("{}: no {} in its metadata", file.name, key);
    if (found->second != wanted)
      throw bad_input("{}: its tokens are of another {} ({}, not {})", file.name, what, found->second, wanted);
  };
  check(kTokenizerKey, origin.tokenizer, "tokenizer");
  if (origin.text) check(kTextKey, *origin.text, "text");
}

// Segments have to cut every sequence up without rest; everything that reads a batch relies on it.
void check_segments(const TokenShard& shard) {
  const auto segments = static_cast<int64_t>(shard.segment_length.size());
  bool good = shard.first_segment.front() == 0 && shard.first_segment.back() == segments;
  for (size_t s = 0; good && s + 1 < shard.first_segment.size(); ++s) {
    const int64_t first = shard.first_segment[s], end = shard.first_segment[s + 1];
    good = end <= segments;
    int64_t tokens = 0;
    for (int64_t k = first; good && k < end; ++k) {
      const int32_t length = shard.segment_length[static_cast<size_t>(k)];
      good = length > 0;
      tokens += length;
    }
    good = good && tokens == shard.sequence_length;
    if (!good) throw bad_input("{}: the segments of sequence {} are not its tokens", shard.name, s);
  }
  if (!good) throw bad_input("{}: its sequences do not have its {} segments", shard.name, segments);
}

TokenShard load_shard(const std::filesystem::path& path, int64_t sequence_length, const TokenOrigin& origin) {
  const auto file = std::make_shared<const SafeTensors>(read_safetensors(path));
  const Tensor tokens = find_tensor(*file, "tokens");
  check_origin(*file, origin);
  const int64_t S = tokens.rows, T = tokens.cols, K = find_tensor(*file, "segment_length").cols;
  if (T != sequence_length) throw bad_input("{}: its sequences have {} tokens, not {}", file->name, T, sequence_length);
  if (S == 0) throw bad_input("{}: it has no sequence", file->name);
  TokenShard shard{.name = file->name,
                   .sequence_length = T,
                   .tokens = values_of<int32_t>(*file, "tokens", S, T),
                   .first_segment = values_of<int32_t>(*file, "first_segment", 1, S + 1),
                   .segment_length = values_of<int32_t>(*file, "segment_length", 1, K),
                   .segment_next = values_of<int32_t>(*file, "segment_next", 1, K),
                   .weights = {},
                   .memory = file};
  if (file->tensors.count("weights")) shard.weights = values_of<float>(*file, "weights", S, T);
  check_segments(shard);
  return shard;
}

}  // namespace

void save_shard(const std::filesystem::path& file, const TokenShard& shard, const TokenOrigin& origin) {
  CHECK(shard.sequences() > 0 && origin.text, "{}: a shard without sequences or without the digest of its text",
        file.string());
  std::vector<NamedTensor> tensors = {
      named("tokens", shard.tokens, shard.sequences()), named("first_segment", shard.first_segment, 1),
      named("segment_length", shard.segment_length, 1), named("segment_next", shard.segment_next, 1)};
  if (!shard.weights.empty()) tensors.push_back(named("weights", shard.weights, shard.sequences()));
  write_safetensors(file, tensors, {{kTextKey, *origin.text}, {kTokenizerKey, origin.tokenizer}});
}

std::vector<TokenShard> load_shards(const std::filesystem::path& path, int64_t sequence_length,
                                    const TokenOrigin& origin) {
  std::vector<std::filesystem::path> files;
  if (is_directory(path)) {
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    if (files.empty()) throw bad_input("{}: a folder without prepared tokens (.safetensors)", path.string());
  } else {
    files.push_back(path);
  }
  std::vector<TokenShard> shards;
  for (const std::filesystem::path& file : files) shards.push_back(load_shard(file, sequence_length, origin));
  return shards;
}

void prepare_tokens(const std::filesystem::path& folder, std::span<const std::filesystem::path> files,
                    const Encode& encode, int64_t sequence_length, const TokenOrigin& origin, int64_t shard_tokens) {
  AtomicFolder target(folder);
  TokenPacker packer(sequence_length);
  int64_t shards = 0;
  const auto write_shard = [&] {
    const std::filesystem::path file = target.path() / fmt::format("tokens-{:05}.safetensors", shards++);
    save_shard(file, packer.take(file.string()), origin);
  };
  for (const std::filesystem::path& file : files)
    read_documents(file, [&](std::string_view text, const std::string& where) {
      try {
        packer.add(encode(text));
      } catch (const Error& e) {
        throw Error(fmt::format("{}: {}", where, e.what()), e.failure);
      }
      if (packer.sequences() * sequence_length >= shard_tokens) write_shard();
    });
  if (packer.sequences() > 0) write_shard();
  if (shards == 0)
    throw bad_input("{}: the text is too short for one sequence of {} tokens",
                    files.empty() ? "no data" : files.front().string(), sequence_length);
  target.commit();
}

}  // namespace tangram
