// What a run on a GPU, or the emulated one, does before its first stage.

#include <gtest/gtest.h>

#include "blocks/file.h"
#include "kernels/cuda_devices.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/transfer.h"
#include "nas/architecture_file.h"
#include "nas/gpu_run.h"
#include "nas/run_files.h"
#include "tests/blocks/folder.h"
#include "tests/nas/command_line.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

class CudaRun : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  }

  std::string content() const { return fs::exists(choices) ? read_text_file(choices, 1 << 20) : ""; }
  static std::unique_ptr<Context> gpu() {
    return std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = int64_t{1} << 28});
  }
  /// A product of about `flops` operations.
  static void multiply(double flops, Context& ctx) {
    const auto n = int64_t(std::cbrt(flops / 2));
    Arena memory(3 * n * n * 4 + 1024, Device::cuda);
    const Tensor a = memory.tensor(n, n, DType::f32), b = memory.tensor(n, n, DType::f32);
    fill_zero(a, ctx), fill_zero(b, ctx);
    matmul(memory.tensor(n, n, DType::f32), a, Transpose::no, b, Transpose::yes, false, ctx);
    synchronize(ctx);
  }

  const TestFolder own;
  const fs::path folder = own.path;
  const fs::path choices = folder / "matmuls.txt";
  Capture said;
  Console console{said.file, false, false};
};

TEST_F(CudaRun, KeepsTheAlgorithmsOfItsProducts) {
  const auto first = gpu();
  keep_matmul_choices(folder, *first, console);
  multiply(1e8, *first);
  EXPECT_EQ(content(), "") << "small products take the library's first proposal";
  multiply(1.1e9, *first);
  const std::string kept = content();
  EXPECT_EQ(std::count(kept.begin(), kept.end(), '\n'), 3) << kept;  // machine, shape, digest

  // A run that goes on measures nothing: a file that it did not write stays away.
  const auto second = gpu();
  keep_matmul_choices(folder, *second, console);
  fs::remove(choices);
  multiply(1.1e9, *second);
  EXPECT_EQ(content(), "");
  multiply(1.3e9, *second);
  const std::string both = content();
  EXPECT_EQ(std::count(both.begin(), both.end(), '\n'), 4) << both;
  EXPECT_EQ(said.text(), "");
}

TEST_F(CudaRun, RefusesDamagedAlgorithms) {
  const auto first = gpu();
  keep_matmul_choices(folder, *first, console);
  multiply(1.1e9, *first);
  const std::string kept = content();
  for (const size_t place : {kept.find('\n') + 1, kept.size() / 2, kept.size() - 3}) {
    std::string damaged = kept;
    damaged[place] = damaged[place] == '0' ? '1' : '0';
    write_file_atomically(choices, damaged);
    const auto second = gpu();
    EXPECT_THROW(keep_matmul_choices(folder, *second, console), Error) << damaged;
  }
  for (const std::string& damaged : {std::string(), kept.substr(0, kept.size() / 2)}) {
    write_file_atomically(choices, damaged);
    const auto second = gpu();
    EXPECT_THROW(keep_matmul_choices(folder, *second, console), Error) << damaged;
  }
}

TEST_F(CudaRun, ReplacesAlgorithmsOfAnotherGpuAndSaysSo) {
  const std::string others = "cuBLASLt 1 on a GPU of old, 1 multiprocessors\n";
  write_file_atomically(choices, others + "digest 77395344831f355f\n");
  const auto ctx = gpu();
  keep_matmul_choices(folder, *ctx, console);
  EXPECT_NE(said.text().find("of cuBLASLt 1 on a GPU of old, 1 multiprocessors, and this is cuBLASLt"),
            std::string::npos)
      << said.text();
  multiply(1.1e9, *ctx);
  EXPECT_EQ(content().find("of old"), std::string::npos) << content();
}

/// A config whose teacher, of `hidden_size`, is pretrained and distilled in batches of `batch_tokens`.
std::string config_of(int64_t hidden_size, int64_t batch_tokens) {
  return fmt::format(
      "teacher: {{pretrain: {{model: {{hidden_size: {0}, intermediate_size: {1}, num_hidden_layers: 8, "
      "num_attention_heads: {2}, num_key_value_heads: 8, rope_theta: 10000}}, tokens: {3}, batch_tokens: {3}}}}}\n"
      "data: {{skills: {{seed: 1, train_tokens: 4e5, validation_tokens: 4e4}}, sequence_length: 128}}\n"
      "search_space: {{attention: [gqa_1, linear], ffn: [0.5]}}\n"
      "distill: {{tokens: 4096, batch_tokens: 4096}}\n"
      "score: {{tokens: 4096, objective: kl_divergence}}\n"
      "scenarios: {{chat: {{input_tokens: 64, output_tokens: 64, concurrency: 2}}}}\n"
      "constraints: {{memory: 60%}}\n"
      "uptrain: {{tokens: {3}, batch_tokens: {3}}}\n",
      hidden_size, 4 * hidden_size, hidden_size / 128, batch_tokens);
}

TEST_F(CudaRun, IsRefusedBeforeItsWorkWhereMemoryIsShort) {
  write_file_atomically(folder / "search.yaml", config_of(32768, 4096));
  const auto call = [&](const char* verb) {
    return call_with({verb, folder / "search.yaml", "--run-dir", folder / "run", "--device", "cuda"}, all_stages(), {});
  };
  const std::pair<const char*, const char*> refused[] = {
      {"run", "pretrain needs "}, {"pretrain", "pretrain needs "}, {"distill", "distill needs "}};
  for (const auto& [verb, message] : refused) {
    const Outcome outcome = call(verb);
    EXPECT_EQ(outcome.code, 3) << outcome.err;
    EXPECT_NE(outcome.err.find(message), std::string::npos) << outcome.err;
    const char* advice = *verb == 'd' ? "nothing but a smaller teacher would fit" : "more micro-batches do not suffice";
    EXPECT_NE(outcome.err.find(advice), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(folder / "run"));
  }
  // A stage that needs little is not refused: this one only lacks what an earlier one makes.
  const Outcome search = call("search");
  EXPECT_EQ(search.code, 2) << search.err;
  EXPECT_NE(search.err.find("is to run first"), std::string::npos) << search.err;
}

// A step of 4 M tokens at once takes more than any GPU has; in smaller pieces, or of 4096 tokens, it fits into 16 GiB.
TEST_F(CudaRun, RefusesAStudentThatDoesNotFitBeforeItsHealing) {
  ChosenArchitecture chosen;
  chosen.name = chosen.target = "small";
  chosen.method = "mip", chosen.objective = "kl_divergence";
  chosen.blocks.assign(8, {.attention = "gqa_8", .ffn = "ffn_8192"});
  const auto uptrain = [&](int64_t batch_tokens) {
    write_file_atomically(folder / "search.yaml", config_of(2048, batch_tokens));
    fs::create_directories(folder / "run/architectures");
    write_architecture(architecture_path(folder / "run", "small"), chosen);
    return call_with({"uptrain", folder / "search.yaml", "--run-dir", folder / "run", "--device", "cuda"}, all_stages(),
                     {});
  };
  const Outcome refused = uptrain(int64_t{1} << 22);
  EXPECT_EQ(refused.code, 3) << refused.err;
  EXPECT_NE(refused.err.find("uptrain of small needs "), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("(teacher "), std::string::npos) << refused.err;
  EXPECT_NE(refused.err.find("; uptrain.micro_batches="), std::string::npos) << refused.err;
  EXPECT_FALSE(fs::exists(folder / "run/run.json"));
  const Outcome passed = uptrain(4096);  // and lacks the rest of the run
  EXPECT_EQ(passed.code, 2) << passed.err;
  EXPECT_EQ(passed.err.find("needs "), std::string::npos) << passed.err;
}

}  // namespace
}  // namespace tangram
