// Prefill and batch-1 decode of the Llama of 2B parameters in llama-2b/config.json, with random weights, by `tangram
// bench`: 512 tokens in, 32 out. The bounds are the machine's own matmul peak and the rate at which it reads memory.
//
//   bench_model [f32|bf16]      (both without an argument)

#include <fmt/core.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "nas/commands.h"
#include "nas/model_verbs.h"
#include "tests/benchmarks/peer.h"

namespace tangram {
namespace {

nlohmann::json bench_json(DType dtype) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* out = open_memstream(&text, &size);
  const std::string model = std::string(TANGRAM_BENCHMARKS_DIR) + "/llama-2b";
  const int code = run_command_line({"bench", model, "--untrained", "--dtype", std::string(name_of(dtype)),
                                     "--prompt-tokens", "512", "--output-tokens", "32", "--json"},
                                    {}, all_model_verbs(), out, stderr);
  std::fclose(out);
  const std::string json(text, size);
  std::free(text);
  CHECK(code == 0, "tangram bench ended with {}", code);
  return nlohmann::json::parse(json);
}

void run(DType dtype) {
  const nlohmann::json json = bench_json(dtype);
  for (const auto& [phase, tokens] : {std::pair{"prefill", 512}, {"decode", 1}}) {
    const nlohmann::json& p = json[phase];
    const double seconds = tokens / p["tokens_per_s"].get<double>();
    fmt::print("{:<7} {:<4} 2B  {:8.1f} ms  {:6.1f} {}  bound {:6.1f}  fraction {:.3f}\n", phase, name_of(dtype),
               seconds * 1e3, p["rate"].get<double>(), p["units"].get<std::string>(), p["bound"].get<double>(),
               p["part"].get<double>());
    std::fflush(stdout);
    print_peers(time_peers(phase, dtype, json["threads"]), seconds);
  }
}

}  // namespace
}  // namespace tangram

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  for (const tangram::DType dtype : {tangram::DType::f32, tangram::DType::bf16})
    if (only.empty() || only == name_of(dtype)) tangram::run(dtype);
}
