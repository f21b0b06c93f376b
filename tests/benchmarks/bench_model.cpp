// Prefill and batch-1 decode of a whole Llama with random weights, by `tangram bench`: of 2B parameters on the CPU
// (llama-2b/config.json), of 8B on a GPU.

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "blocks/config_json.h"
#include "nas/commands.h"
#include "nas/model_verbs.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Work {
  std::string name, folder;
  int64_t prefill_tokens, decode_tokens, steps;  // a prompt; the context of decode, and how many tokens it then makes
};

// A folder with the config of a model that takes a moment anywhere.
Work tiny_work() {
  ModelConfig c;
  c.vocab_size = 300, c.hidden_size = 64, c.intermediate_size = 128, c.num_hidden_layers = 2;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 16, c.max_position_embeddings = 256;
  const fs::path folder = fs::temp_directory_path() / fmt::format("tangram-bench-{}", getpid());
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << config_json(c, teacher_architecture(c), DType::bf16);
  return {"tiny", folder.string(), 64, 32, 8};
}

Work work_of(const BenchOptions& o) {
  if (o.tiny) return tiny_work();
  if (o.device == Device::cuda) return {"8B", benchmarks_folder() + "/llama-8b", 8192, 512, 128};
  return {"2B", benchmarks_folder() + "/llama-2b", 512, 512, 32};
}

/// `tangram bench --json` of a prompt and some steps; the part of `phase`.
nlohmann::json run_verb(const Bench& bench, const Work& work, DType dtype, int64_t prompt, int64_t steps,
                        const char* phase) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  std::vector<std::string> arguments{"bench",           work.folder,
                                     "--untrained",     "--json",
                                     "--dtype",         std::string(name_of(dtype)),
                                     "--prompt-tokens", std::to_string(prompt),
                                     "--output-tokens", std::to_string(steps)};
  if (bench.options.device == Device::cuda) arguments.insert(arguments.end(), {"--device", "cuda"});
  const int code = run_command_line(arguments, {}, all_model_verbs(), out, stderr);
  std::fclose(out);
  const std::string json(text, size);
  std::free(text);
  CHECK(code == 0, "tangram bench ended with {}", code);
  return nlohmann::json::parse(json)[phase];
}

void run(Bench& bench, const Work& work, DType dtype) {
  const ModelConfig c = read_config(work.folder).config;
  if (bench.options.device == Device::cuda) bench.ceilings(dtype);  // on the CPU the verb measures its own
  const auto time = [&](const char* phase, int64_t prompt, int64_t steps, int64_t tokens, Unit unit,
                        const std::string& peer) {
    const std::string what = fmt::format("{}, {} model", phase, work.name);
    if (!bench.wants(what)) return;
    const nlohmann::json p = run_verb(bench, work, dtype, prompt, steps, phase);
    const double seconds = double(tokens) / p["tokens_per_s"].get<double>();
    BenchRow row{what,
                 fmt::format("{} tokens, {} layers of {}", prompt, c.num_hidden_layers, c.hidden_size),
                 dtype,
                 seconds,
                 p["rate"].get<double>() * 1e9 * seconds,
                 unit};
    if (bench.options.device == Device::cpu) row.bound = p["bound"].get<double>() * 1e9;
    row.peer_work = fmt::format("{}:{},{},{},{},{},{},{},{},{}", peer, prompt, c.vocab_size, c.hidden_size,
                                c.intermediate_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads,
                                c.head_dim, int(c.tie_word_embeddings));
    bench.add(row);
  };
  time("prefill", work.prefill_tokens, 1, work.prefill_tokens, Unit::flops, "prefill");
  time("decode", work.decode_tokens, work.steps, 1, Unit::bytes, "decode_model");
}

}  // namespace

void bench_model(Bench& bench) {
  const Work work = work_of(bench.options);
  for (const DType dtype : bench.options.dtypes) run(bench, work, dtype);
  if (bench.options.tiny) fs::remove_all(work.folder);
}

}  // namespace tangram
