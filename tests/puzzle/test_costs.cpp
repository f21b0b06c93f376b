#include "puzzle/costs.h"

#include <gtest/gtest.h>

#include "puzzle/measure.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

ModelConfig llama_8b() {
  ModelConfig c;
  c.vocab_size = 128256, c.hidden_size = 4096, c.intermediate_size = 14336, c.num_hidden_layers = 32;
  c.num_attention_heads = 32, c.num_key_value_heads = 8, c.head_dim = 128, c.max_position_embeddings = 131072;
  return c;
}
Choice choice(Subblock s, const char* text) { return parse_choice(s, text, llama_8b()); }

// Oracle: the published size of Llama 3.1 8B, 8,030,261,248 parameters.
TEST(Costs, ParametersOfLlama8b) {
  const ModelConfig c = llama_8b();
  EXPECT_EQ(model_parameters(teacher_architecture(c), c), 8030261248.0);
  const Scenario s{.name = "s", .concurrency = 1};
  double bytes = outside_bytes(c, s);
  for (const BlockChoice& block : teacher_architecture(c))
    for (Subblock subblock : {Subblock::attention, Subblock::ffn}) bytes += weight_bytes(block.of(subblock), c, s);
  EXPECT_EQ(bytes, 2 * 8030261248.0);
}

// By hand: 8 sequences of 100 + 28 tokens, keys and values of 8 heads of 128, 2 bytes. A window of 32 takes 16 new
// tokens at a time, and so has 47 in 48 places.
TEST(Costs, KvCacheByHand) {
  const Scenario s{
      .name = "s", .input_tokens = 100, .output_tokens = 28, .concurrency = 8, .precision = Precision::bf16};
  const ModelConfig c = llama_8b();
  EXPECT_EQ(kv_cache_bytes(choice(Subblock::attention, "gqa_8"), c, s), 8.0 * 128 * 2 * 8 * 128 * 2);
  EXPECT_EQ(kv_cache_bytes(choice(Subblock::attention, "gqa_1"), c, s), 8.0 * 128 * 2 * 1 * 128 * 2);
  EXPECT_EQ(kv_cache_bytes(choice(Subblock::attention, "window_32"), c, s), 8.0 * 48 * 2 * 8 * 128 * 2);
  EXPECT_EQ(kv_cache_bytes(choice(Subblock::attention, "linear"), c, s), 0);
  EXPECT_EQ(kv_cache_bytes(choice(Subblock::ffn, "0.5"), c, s), 0);
}

// By hand, for 8B on 4 devices: 2 of 8 KV heads each; of one KV head, each has a copy.
TEST(Costs, DevicesHaveWholeHeads) {
  const ModelConfig c = llama_8b();
  Scenario s{.name = "s", .input_tokens = 100, .output_tokens = 28, .concurrency = 8};
  const double norm = 2 * 4096;
  s.tensor_parallel = 4;
  EXPECT_EQ(kv_cache_bytes(choice(Subblock::attention, "gqa_8"), c, s), 8.0 * 128 * 2 * 2 * 128 * 2);
  EXPECT_EQ(kv_cache_bytes(choice(Subblock::attention, "gqa_1"), c, s), 8.0 * 128 * 2 * 1 * 128 * 2);
  EXPECT_EQ(weight_bytes(choice(Subblock::attention, "gqa_8"), c, s), 2.0 * 4096 * (1024 + 2 * 256 + 1024) + norm);
  EXPECT_EQ(weight_bytes(choice(Subblock::attention, "gqa_1"), c, s), 2.0 * 4096 * (1024 + 2 * 128 + 1024) + norm);
  EXPECT_EQ(weight_bytes(choice(Subblock::ffn, "ffn_14336"), c, s), 2.0 * 4096 * 3 * 3584 + norm);
  EXPECT_EQ(weight_bytes(choice(Subblock::attention, "linear"), c, s), 2.0 * 4096 * 1024 + norm);
  EXPECT_EQ(outside_bytes(c, s), 2.0 * 4096 * (2 * 32064 + 1));
}

// Oracle: a published sum (72.65 GB): the blocks of 70B in 8 bits, embedding and head in 16.
TEST(Costs, EightBitsAreForTheBlocks) {
  ModelConfig c = llama_8b();
  c.hidden_size = 8192, c.intermediate_size = 28672, c.num_hidden_layers = 80, c.num_attention_heads = 64;
  const Scenario s{.name = "s", .concurrency = 1, .precision = Precision::fp8};
  double bytes = outside_bytes(c, s);
  for (const BlockChoice& block : teacher_architecture(c))
    for (const Subblock b : {Subblock::attention, Subblock::ffn}) bytes += weight_bytes(block.of(b), c, s);
  EXPECT_NEAR(bytes, 72.65e9, 0.05e9);
  EXPECT_EQ(kv_bytes_per_token(teacher_architecture(c), c, Precision::bf16), 327680);
  EXPECT_EQ(kv_bytes_per_token(teacher_architecture(c), c, Precision::fp8), 163840);
}

TEST(Costs, WhatKernelsCannotRunIsNotMeasured) {
  const auto message = [](const Scenario& s) -> std::string {
    try {
      check_runnable(s);
    } catch (const Error& e) {
      EXPECT_EQ(e.failure, Failure::bad_input);
      return e.what();
    }
    return "";
  };
  Scenario s{.name = "s", .concurrency = 1};
  EXPECT_EQ(message(s), "");
  s.own_kv_precision = Precision::fp8;
  EXPECT_NE(message(s).find("cannot run a fp8 KV cache with bf16 weights yet; it can be modelled"), std::string::npos);
  s.own_kv_precision = {}, s.precision = Precision::fp8;
  EXPECT_NE(message(s).find("cannot run fp8 yet"), std::string::npos);
  s.precision = Precision::f32, s.tensor_parallel = 2;
  EXPECT_NE(message(s).find("needs as many devices"), std::string::npos);
}

TEST(Costs, NoOpIsFree) {
  const ModelConfig c = llama_8b();
  const Scenario s{.name = "s", .precision = Precision::f32};
  EXPECT_EQ(weight_bytes(choice(Subblock::ffn, "no_op"), c, s), 0);
  EXPECT_EQ(weight_bytes(choice(Subblock::ffn, "linear"), c, s), (4096.0 * 4096 + 4096) * 4);
}

TEST(Costs, TiedHeadIsCountedOnce) {
  ModelConfig c = llama_8b();
  const double untied = outside_parameters(c);
  c.tie_word_embeddings = true;
  EXPECT_EQ(untied - outside_parameters(c), 128256.0 * 4096);
}

// Oracle: what a whole model takes from the engine's arenas, past its windows. Of workspace, what oneDNN packs for
// a product is missing, some 3 %; of weights, the gaps that let every tensor begin at a multiple of 64 bytes.
TEST(Measure, PredictedMemoryIsWhatIsTaken) {
  ModelConfig c = small_config();
  c.hidden_size = 64, c.intermediate_size = 512, c.max_position_embeddings = 256;
  const Scenario s{
      .name = "s", .input_tokens = 100, .output_tokens = 28, .concurrency = 3, .precision = Precision::f32};
  const MeasureOptions options{.prefill_tokens_at_most = 200, .repeats = 1, .seconds_at_least = 0};
  const auto block = [&](const char* attention, const char* ffn) {
    return BlockChoice{parse_choice(Subblock::attention, attention, c), parse_choice(Subblock::ffn, ffn, c)};
  };
  for (const Architecture& student :
       {teacher_architecture(c), Architecture{block("window_4", "ffn_16"), block("linear", "linear")},
        Architecture{block("window_40", "no_op"), block("no_op", "no_op"), block("gqa_1", "ffn_256")}}) {
    c.num_hidden_layers = std::ssize(student);
    Context ctx(Context::Options{.threads = 2});
    const WholeRun whole = measure_whole(student, c, s, options, ctx);
    double weights = outside_bytes(c, s), cache = 0, workspace = 0, tensors = 3;
    for (const BlockChoice& b : student)
      for (const Subblock subblock : {Subblock::attention, Subblock::ffn}) {
        weights += weight_bytes(b.of(subblock), c, s), cache += kv_cache_bytes(b.of(subblock), c, s), tensors += 5;
        workspace = std::max(workspace, planned_workspace(b.of(subblock), c, s, options, ctx));
      }
    EXPECT_EQ(double(whole.kv_cache_bytes), cache);
    EXPECT_LE(workspace, double(whole.workspace_bytes));
    EXPECT_GE(workspace, 0.95 * double(whole.workspace_bytes));
    EXPECT_GE(double(whole.weight_bytes), weights);
    EXPECT_LT(double(whole.weight_bytes), weights + 64 * tensors);
    // The roofline model's estimate for other machines counts rows of buffers, not what kernels keep beside them.
    EXPECT_NEAR(workspace_bytes(student, c, s, 200) / workspace, 1, 0.5);
  }
}

// A measured time has no oracle, but its order has: nothing for a no_op, more for more work.
TEST(Measure, TimesGrowWithWork) {
  ModelConfig c = small_config();
  c.hidden_size = 256, c.intermediate_size = 2048, c.num_attention_heads = 8, c.num_key_value_heads = 8,
  c.head_dim = 32;
  const Scenario s{.name = "s", .input_tokens = 64, .output_tokens = 8, .concurrency = 2, .precision = Precision::f32};
  Context ctx(Context::Options{.threads = 1});
  const MeasureOptions options;
  const auto ffn = [&](const char* text) {
    return measure_subblock(parse_choice(Subblock::ffn, text, c), c, s, options, ctx);
  };
  const Runtime none = ffn("no_op"), small = ffn("ffn_64"), large = ffn("ffn_2048");
  EXPECT_EQ(none.prefill_seconds, 0);
  EXPECT_EQ(none.decode_seconds, 0);
  EXPECT_GT(small.prefill_seconds, 0);
  EXPECT_GT(large.prefill_seconds, small.prefill_seconds);
  EXPECT_GT(large.decode_seconds, small.decode_seconds);
  const Runtime attention = measure_subblock(teacher_choice(Subblock::attention, c), c, s, options, ctx);
  EXPECT_GT(attention.prefill_seconds, 0);
  EXPECT_GT(attention.decode_seconds, 0);
  EXPECT_GT(measure_outside(c, s, options, ctx).decode_seconds, 0);
}

}  // namespace
}  // namespace tangram
