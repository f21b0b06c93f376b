// What a run on a GPU, or the emulated one, does before its first stage.

#include <gtest/gtest.h>

#include "blocks/file.h"
#include "kernels/cuda_devices.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/transfer.h"
#include "nas/gpu_run.h"
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

TEST_F(CudaRun, IsRefusedBeforeItsWorkWhereMemoryIsShort) {
  write_file_atomically(folder / "search.yaml",
                        "teacher: {pretrain: {model: {hidden_size: 32768, intermediate_size: 131072, "
                        "num_hidden_layers: 8, num_attention_heads: 256, num_key_value_heads: 8, rope_theta: 10000}, "
                        "tokens: 4096, batch_tokens: 4096}}\n"
                        "data: {skills: {seed: 1, train_tokens: 4e5, validation_tokens: 4e4}, sequence_length: 128}\n"
                        "search_space: {attention: [gqa_1, linear], ffn: [0.5]}\n"
                        "distill: {tokens: 4096, batch_tokens: 4096}\n"
                        "score: {tokens: 4096, objective: kl_divergence}\n"
                        "scenarios: {chat: {input_tokens: 64, output_tokens: 64, concurrency: 2}}\n"
                        "constraints: {memory: 60%}\n");
  for (const char* verb : {"run", "distill"}) {
    const Outcome outcome =
        call_with({verb, folder / "search.yaml", "--run-dir", folder / "run", "--device", "cuda"}, all_stages(), {});
    EXPECT_EQ(outcome.code, 3) << outcome.err;
    EXPECT_NE(outcome.err.find("distill needs "), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("(teacher "), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("nothing but a smaller teacher would fit"), std::string::npos) << outcome.err;
    EXPECT_FALSE(fs::exists(folder / "run"));
  }
  // A stage that needs little is not refused: this one only lacks what an earlier one makes.
  const Outcome search =
      call_with({"search", folder / "search.yaml", "--run-dir", folder / "run", "--device", "cuda"}, all_stages(), {});
  EXPECT_EQ(search.code, 2) << search.err;
  EXPECT_NE(search.err.find("is to run first"), std::string::npos) << search.err;
}

}  // namespace
}  // namespace tangram
