#include "nas/run_files.h"

#include <algorithm>
#include <iterator>

#include "blocks/checkpoint.h"
#include "blocks/config_json.h"
#include "blocks/sha256.h"

namespace tangram {
namespace fs = std::filesystem;

fs::path teacher_path(const SearchConfig& config, const fs::path& run_dir) {
  return config.teacher.pretrain ? run_dir / "teacher" : config.teacher.folder;
}
fs::path tokens_path(const fs::path& run_dir, bool validation) {
  return run_dir / "tokens" / (validation ? "validation" : "train");
}
fs::path statistics_path(const fs::path& run_dir, int64_t layer) {
  return run_dir / "statistics" / fmt::format("{}.safetensors", layer);
}
fs::path library_dir(const fs::path& run_dir) { return run_dir / "library"; }
fs::path scores_path(const fs::path& run_dir) { return run_dir / "scores.h5"; }
fs::path architecture_path(const fs::path& run_dir, const std::string& name) {
  return run_dir / "architectures" / (name + ".yaml");
}
fs::path frontier_path(const fs::path& run_dir, const std::string& target) {
  return run_dir / "frontiers" / (target + ".json");
}
fs::path student_path(const fs::path& run_dir, const std::string& name) { return run_dir / "students" / name; }
fs::path student_curve_path(const fs::path& run_dir, const std::string& name) {
  return run_dir / "students" / (name + ".csv");
}
fs::path export_path(const fs::path& run_dir, const std::string& name, ExportFormat format) {
  const fs::path folder = run_dir / "export";
  if (format == ExportFormat::huggingface) return folder / name;
  if (!is_gguf(format)) return folder / fmt::format("{}_{}", name, kExportNames[static_cast<size_t>(format)]);
  const std::string_view type = kExportNames[static_cast<size_t>(format)].substr(std::string_view("gguf").size());
  return folder / fmt::format("{}{}.gguf", name, type);
}

fs::path servers_path(const fs::path& run_dir, const std::string& name) {
  return run_dir / "export" / (name + ".servers.txt");
}

Model load_teacher(const SearchConfig& config, const fs::path& run_dir, DType dtype) {
  return load_model(teacher_path(config, run_dir), dtype);
}

CorpusConfig corpus_of(const SearchConfig& config) {
  CorpusConfig corpus;
  corpus.seed = config.data.skills->seed;
  corpus.characters = config.data.sequence_length + 1;
  return corpus;
}

TokenOrigin token_origin(const SearchConfig& config, const fs::path& run_dir) {
  return {.tokenizer = digest_file(teacher_path(config, run_dir) / "tokenizer.json"), .text = {}};
}

DataFiles data_files(const SearchConfig& config, bool validation) {
  DataFiles files;
  for (const fs::path& path : validation ? config.data.validation : config.data.train)
    (fs::is_directory(path) || path.extension() == ".safetensors" ? files.tokens : files.texts).push_back(path);
  return files;
}

TokenDataset load_tokens(const SearchConfig& config, const fs::path& run_dir, bool validation, float prompt_weight) {
  const int64_t T = config.data.sequence_length;
  std::vector<TokenShard> shards;
  int64_t vocab_size = static_cast<int64_t>(kCorpusSymbols.size());
  if (const auto& skills = config.data.skills) {
    const int64_t tokens = validation ? skills->validation_tokens : skills->train_tokens;
    shards.push_back(
        corpus_shard(corpus_of(config), validation ? Split::validation : Split::train, 0, tokens / T, prompt_weight));
  } else {
    vocab_size = read_config(teacher_path(config, run_dir)).config.vocab_size;
    const TokenOrigin origin = token_origin(config, run_dir);
    const auto add = [&](const fs::path& path) {
      std::ranges::move(load_shards(path, T, origin), std::back_inserter(shards));
    };
    const DataFiles files = data_files(config, validation);
    if (!files.texts.empty()) add(tokens_path(run_dir, validation));
    std::ranges::for_each(files.tokens, add);
  }
  return make_dataset(std::move(shards), T, vocab_size);
}

std::vector<Replacement> all_replacements(const SearchSpace& space, const ModelConfig& teacher) {
  std::vector<Replacement> all;
  for (int64_t l = 0; l < teacher.num_hidden_layers; ++l) {
    const auto add = [&](std::optional<Choice> attention, std::optional<Choice> ffn) {
      all.push_back({.first_layer = l, .layer_count = 1, .attention = attention, .ffn = ffn});
    };
    for (const Choice& c : space.attention) add(c, {});
    for (const Choice& c : space.ffn) add({}, c);
    for (const BlockChoice& pair : space.pairs) add(pair.attention, pair.ffn);
    for (const Span& span : space.spans)
      if (l + span.layers <= teacher.num_hidden_layers)
        all.push_back({l, span.layers, span.block.attention, span.block.ffn});
  }
  return all;
}

}  // namespace tangram
