#include "puzzle/roofline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "puzzle/calibration.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;

// Round numbers, and no overhead: 1 TFLOP/s and 100 GB/s.
Hardware simple_hardware() {
  Hardware h{.name = "simple", .memory_bytes = 1e9, .memory_bandwidth = 1e11};
  h.flops = {5e11, 1e12, 2e12};
  h.link_bandwidth = 1e10;
  h.prefill_tokens = 1024;
  return h;
}

ModelConfig model() {
  ModelConfig c;
  c.vocab_size = 1000, c.hidden_size = 64, c.intermediate_size = 256, c.num_hidden_layers = 4;
  c.num_attention_heads = 8, c.num_key_value_heads = 4, c.head_dim = 8, c.max_position_embeddings = 4096;
  return c;
}

Choice ffn(const char* text) { return parse_choice(Subblock::ffn, text, model()); }
Choice attention(const char* text) { return parse_choice(Subblock::attention, text, model()); }
Scenario load(int64_t in, int64_t out, int64_t sequences, int64_t devices = 1) {
  return {.name = "s", .input_tokens = in, .output_tokens = out, .concurrency = sequences, .tensor_parallel = devices};
}

// Oracle: by hand. A linear FFN is one product of 64 x 64 in bf16. Ten tokens: 2 * 10 * 4096 = 81920 operations take
// 81.92 ns; 2 * (4096 + 640 + 640) = 10752 bytes take 107.52 ns. 1000 tokens: 8192 ns against 2 * 132096 bytes,
// 2641.92.
TEST(Roofline, AProductTakesTheLongerOfArithmeticAndBytes) {
  const Hardware h = simple_hardware();
  const ModelledTime few = model_subblock(ffn("linear"), model(), load(10, 1, 1), h);
  EXPECT_NEAR(few.prefill.seconds[size_t(Term::matmul_memory)], 107.52e-9, 1e-15);
  EXPECT_EQ(few.prefill.seconds[size_t(Term::matmul_compute)], 0);
  EXPECT_EQ(few.decode.total(), 0);  // the one output token comes from the prefill
  const ModelledTime many = model_subblock(ffn("linear"), model(), load(1000, 1, 1), h);
  EXPECT_NEAR(many.prefill.seconds[size_t(Term::matmul_compute)], 8192e-9, 1e-15);
  EXPECT_EQ(many.prefill.seconds[size_t(Term::matmul_memory)], 0);
  // Addition and norm: 4 activations of 2 bytes for each channel.
  EXPECT_NEAR(many.prefill.seconds[size_t(Term::elementwise)], 1000 * 64 * 8 / 1e11, 1e-15);
}

// Oracle: the same sum over decode steps and tokens of a prompt, one after the other, with every window.
TEST(Roofline, AttentionAgreesWithASumOverTokens) {
  Hardware h = simple_hardware();
  h.memory_bandwidth = 1e30;  // arithmetic alone counts
  const double width = 8 * 8;
  for (const char* name : {"gqa_4", "gqa_1", "window_3", "window_32"}) {
    const Choice choice = attention(name);
    const auto window = double(choice.variant->cost({model(), choice.size}).kv_tokens_at_most);
    for (const auto& [in, out] : {std::pair(1, 1), {5, 1}, {7, 9}, {40, 20}, {2, 60}}) {
      double prompt = 0, decode = 0;
      for (int t = 1; t <= in; ++t) prompt += 4 * width * std::min(double(t), window);
      for (int s = 1; s < out; ++s) decode += 4 * width * std::min(double(in + s), window);
      const ModelledTime time = model_subblock(choice, model(), load(in, out, 3), h);
      EXPECT_NEAR(time.prefill.seconds[size_t(Term::attention_prefill)], 3 * prompt / 1e12, 1e-18) << name << in << out;
      EXPECT_NEAR(time.decode.seconds[size_t(Term::attention_decode)], 3 * decode / 1e12, 1e-18) << name << in << out;
    }
  }
}

TEST(Roofline, DecodeReadsTheCacheInItsOwnPrecision) {
  const Hardware h = simple_hardware();
  Scenario s = load(1000, 2, 4);
  const auto seconds = [&] {
    return model_subblock(attention("gqa_4"), model(), s, h).decode.seconds[size_t(Term::attention_decode)];
  };
  // 4 sequences of 1001 tokens, keys and values of 4 heads of 8; 4 queries and outputs of 64.
  EXPECT_NEAR(seconds(), (4 * 1001 * 64 * 2 + 4 * 2 * 64 * 2) / 1e11, 1e-15);
  s.own_kv_precision = Precision::fp8;
  EXPECT_NEAR(seconds(), (4 * 1001 * 64 * 1 + 4 * 2 * 64 * 2) / 1e11, 1e-15);
}

TEST(Roofline, DevicesShareMatricesAndAddUpOutputs) {
  const Hardware h = simple_hardware();
  const auto parts = [&](int64_t devices) {
    return model_subblock(ffn("ffn_256"), model(), load(1000, 1, 1, devices), h).prefill.seconds;
  };
  const auto one = parts(1), four = parts(4);
  EXPECT_NEAR(four[size_t(Term::matmul_compute)], one[size_t(Term::matmul_compute)] / 4, 1e-15);
  EXPECT_EQ(one[size_t(Term::all_reduce)], 0);
  EXPECT_NEAR(four[size_t(Term::all_reduce)], 2 * 0.75 * 1000 * 64 * 2 / 1e10, 1e-15);
}

// Finite sanity: more of anything takes longer, and more sequences together have more throughput until memory is full.
TEST(Roofline, TimesGrowWithWork) {
  Hardware h = simple_hardware();
  h.launch_seconds = 1e-7, h.step_seconds = 1e-6;
  const Architecture teacher = teacher_architecture(model());
  const auto total = [&](const Scenario& s) {
    const ModelledTime t = model_whole(teacher, model(), s, h);
    return t.prefill.total() + t.decode.total();
  };
  double before = 0, rate = 0;
  for (int64_t n = 1; n <= 4096; n *= 2) {
    const double seconds = total(load(64, 64, n));
    EXPECT_GT(seconds, before);
    EXPECT_GT(double(n) / seconds, rate);
    before = seconds, rate = double(n) / seconds;
    EXPECT_GT(total(load(65, 64, n)), seconds);
    EXPECT_GT(total(load(64, 65, n)), seconds);
  }
  for (const char* smaller : {"no_op", "linear", "ffn_64"})
    EXPECT_LT(model_subblock(ffn(smaller), model(), load(64, 64, 8), h).decode.total(),
              model_subblock(ffn("ffn_256"), model(), load(64, 64, 8), h).decode.total());
}

TEST(Roofline, AWholeModelIsTheSumOfItsParts) {
  const Hardware h = simple_hardware();
  Architecture mixed = teacher_architecture(model());
  mixed[1] = {attention("no_op"), ffn("ffn_64")}, mixed[2].attention = attention("gqa_1"), mixed[3].ffn = ffn("linear");
  const Scenario s = load(100, 30, 5, 2);
  ModelledTime sum = model_outside(model(), s, h);
  for (const BlockChoice& block : mixed)
    for (const Subblock b : {Subblock::attention, Subblock::ffn}) sum += model_subblock(block.of(b), model(), s, h);
  const ModelledTime whole = model_whole(mixed, model(), s, h);
  EXPECT_NEAR(whole.prefill.total(), sum.prefill.total(), 1e-15);
  EXPECT_NEAR(whole.decode.total(), sum.decode.total(), 1e-15);
}

TEST(Roofline, TheBestServingFillsMemoryAndNoMore) {
  Hardware h = simple_hardware();
  h.flops[1] = 1e18;  // so that the weights' bytes count, which more sequences share
  const Architecture teacher = teacher_architecture(model());
  const Scenario s = load(512, 512, 100000);
  const Serving best = best_serving(teacher, model(), s, h);
  EXPECT_LE(best.memory_bytes, h.memory_bytes);
  Scenario more = s;
  more.concurrency = best.scenario.concurrency + 1;
  EXPECT_GT(model_memory(teacher, model(), more, h), h.memory_bytes);
  h.memory_bytes = 1000;
  EXPECT_EQ(best_serving(teacher, model(), s, h).throughput, 0);
}

TEST(Roofline, WhatHardwareLacksIsRefused) {
  Hardware h = simple_hardware();
  h.flops[2] = 0, h.link_bandwidth = 0;
  const auto message = [&](const Scenario& s) -> std::string {
    try {
      check_hardware(h, s);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  Scenario s = load(1, 1, 1);
  EXPECT_EQ(message(s), "");
  s.precision = Precision::fp8;
  EXPECT_EQ(message(s), "scenario s: hardware simple has no arithmetic in fp8");
  EXPECT_THAT(message(load(1, 1, 1, 2)), HasSubstr("tensor_parallel 2 needs a link"));
}

// By hand: half of the time with 10 %, half with 20 %, and 5 % of the model's own.
TEST(Roofline, ErrorBarsAddUpBySharesOfTheTime) {
  Hardware h = simple_hardware();
  h.of(Term::matmul_memory).error = 0.1, h.of(Term::elementwise).error = 0.2, h.residual = 0.05;
  TimeParts time;
  time.of(Term::matmul_memory) = time.of(Term::elementwise) = 3;
  EXPECT_NEAR(relative_error(time, h), std::sqrt(0.05 * 0.05 + 0.1 * 0.1 + 0.05 * 0.05), 1e-12);
}

std::vector<TimedPoint> points_of(const Hardware& truth, double noise) {
  std::vector<TimedPoint> points;
  for (const int64_t tokens : {1, 8, 64, 512, 2048})
    for (const char* name : {"ffn_256", "ffn_64", "linear", "gqa_4", "gqa_1"}) {
      const Choice choice = name[0] == 'g' ? attention(name) : ffn(name);
      const Scenario s = load(tokens, 32, 4);
      const auto prefill = [=](const Hardware& h) { return model_subblock(choice, model(), s, h).prefill; };
      const auto decode = [=](const Hardware& h) { return model_subblock(choice, model(), s, h).decode; };
      const double sign = points.size() % 4 < 2 ? 1 : -1;
      points.push_back({name, prefill(truth).total() * std::exp(sign * noise), prefill});
      points.push_back({name, decode(truth).total() * std::exp(-sign * noise), decode});
    }
  return points;
}

// Oracle: times of a machine whose efficiencies are known.
TEST(Calibration, FindsTheEfficienciesBehindTimes) {
  Hardware truth = simple_hardware();
  truth.launch_seconds = 1e-7;
  Hardware stated = truth;
  for (Efficiency& e : stated.efficiency) e = {1, 1};
  const double values[kTermCount] = {0.7, 0.5, 0.3, 0.4, 0.6, 1, 0.8};
  for (size_t t = 0; t < kTermCount; ++t) truth.efficiency[t].value = values[t];
  const Calibration fit = calibrate(stated, points_of(truth, 0));
  for (size_t t = 0; t < kTermCount; ++t)
    EXPECT_NEAR(fit.hardware.efficiency[t].value, values[t], 0.05 * values[t]) << kTermNames[t];
  EXPECT_EQ(fit.hardware.of(Term::all_reduce).value, 1) << "nothing tells of it";
  EXPECT_NEAR(fit.hardware.of(Term::all_reduce).error, 1, 1e-9);
  EXPECT_NEAR(fit.hardware.residual, 0.01, 1e-9);

  const Calibration noisy = calibrate(stated, points_of(truth, 0.1));
  EXPECT_NEAR(noisy.hardware.residual, 0.1, 0.02);
  for (size_t t = 0; t < kTermCount; ++t)
    EXPECT_LT(std::abs(std::log(noisy.hardware.efficiency[t].value / values[t])),
              3 * noisy.hardware.efficiency[t].error)
        << kTermNames[t];
}

TEST(Calibration, TimesOfAnotherProcessDoNotCount) {
  Hardware truth = simple_hardware(), stated = truth;
  for (Efficiency& e : stated.efficiency) e = {1, 1};
  truth.of(Term::matmul_compute).value = 0.5;
  std::vector<TimedPoint> points = points_of(truth, 0.02);
  points[5].seconds *= 30, points[20].seconds *= 100;
  const Calibration fit = calibrate(stated, points);
  for (size_t i = 0; i < points.size(); ++i) EXPECT_EQ(fit.used[i], i != 5 && i != 20) << i;
  EXPECT_NEAR(fit.hardware.of(Term::matmul_compute).value, 0.5, 0.03);
}

// Too slow by a factor that no outlier test finds; the quiet ones alone tell the truth.
TEST(Calibration, DisturbedTimesDoNotCountWhereEnoughAreQuiet) {
  Hardware truth = simple_hardware(), stated = truth;
  for (Efficiency& e : stated.efficiency) e = {1, 1};
  truth.of(Term::matmul_compute).value = 0.5;
  std::vector<TimedPoint> points = points_of(truth, 0);
  for (size_t i = 0; i < points.size(); i += 2) points[i].seconds *= 2.5, points[i].is_disturbed = true;
  const Calibration fit = calibrate(stated, points);
  for (size_t i = 0; i < points.size(); ++i) EXPECT_EQ(fit.used[i], i % 2 == 1) << i;
  EXPECT_NEAR(fit.hardware.residual, 0.01, 1e-9);
  for (size_t i = 1; i < points.size(); i += 2) EXPECT_NEAR(fit.after[i] / points[i].seconds, 1, 0.02) << i;
  points.resize(15);  // 7 quiet ones, as many as there are efficiencies
  const Calibration few = calibrate(stated, points);
  EXPECT_EQ(std::count(few.used.begin(), few.used.end(), true), 15);
}

TEST(Calibration, AnErrorBarOfZeroKeepsAnEfficiency) {
  Hardware truth = simple_hardware(), stated = truth;
  truth.of(Term::matmul_compute).value = 0.5;
  for (Efficiency& e : stated.efficiency) e = {1, 0};
  stated.of(Term::matmul_memory).error = 0.5;
  const Calibration fit = calibrate(stated, points_of(truth, 0));
  EXPECT_EQ(fit.hardware.of(Term::matmul_compute).value, 1);
  EXPECT_EQ(fit.hardware.of(Term::matmul_compute).error, 0);
  EXPECT_GT(fit.hardware.residual, 0.1);
}

TEST(Calibration, RefusesTimesThatAreNone) {
  EXPECT_THROW(calibrate(simple_hardware(), {}), Error);
  std::vector<TimedPoint> points = points_of(simple_hardware(), 0);
  points[3].seconds = 0;
  EXPECT_THROW(calibrate(simple_hardware(), points), Error);
}

}  // namespace
}  // namespace tangram
