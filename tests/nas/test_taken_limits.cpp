#include "nas/taken_limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "blocks/file.h"

namespace tangram {
namespace {

using testing::ElementsAre;

const std::vector<Scenario> kScenarios = {{.name = "chat", .input_tokens = 8, .output_tokens = 5, .concurrency = 4},
                                          {.name = "batch@2", .input_tokens = 8, .output_tokens = 5, .concurrency = 2},
                                          {.name = "batch@8", .input_tokens = 8, .output_tokens = 5, .concurrency = 8}};

MeasuredRuntime runtime(const char* name, const char* scenario, double seconds, double bytes) {
  return {name, scenario, seconds, 4 * seconds, bytes / 2, bytes / 4, bytes / 4};
}

std::vector<std::string> texts(std::vector<MeasuredRuntime> runtimes, const std::vector<Constraint>& constraints) {
  check_limits(runtimes, kScenarios, [&](const std::string&) { return constraints; });
  std::vector<std::string> lines;
  for (const MeasuredRuntime& r : runtimes)
    for (const TakenLimit& limit : r.limits) lines.push_back(r.name + ", " + r.scenario + ": " + limit_text(limit));
  return lines;
}

constexpr double kMiB = 1 << 20;

TEST(TakenLimits, MemoryBesideItsLimitByHand) {
  const std::vector<MeasuredRuntime> one = {runtime("student", "chat", 1, 412 * kMiB)};
  EXPECT_THAT(texts(one, {{Quantity::memory, "chat", 400 * kMiB}}),
              ElementsAre("student, chat: memory 412 MiB of the limit 400 MiB: MISSED by 3 %"));
  EXPECT_THAT(texts(one, {{Quantity::memory, "", 413 * kMiB}}),
              ElementsAre("student, chat: memory 412 MiB of the limit 413 MiB: kept"));
  EXPECT_THAT(texts(one, {{Quantity::memory, "batch", 4}, {Quantity::parameters, "", 4}}), ElementsAre());
}

// The teacher's own is what it took, and without it nothing can be said.
TEST(TakenLimits, PartsOfTheTeachersCountWhatItTook) {
  const std::vector<Constraint> half = {{Quantity::memory, "", 0.5, true}};
  EXPECT_THAT(texts({runtime("teacher", "chat", 2, 800 * kMiB), runtime("student", "chat", 1, 500 * kMiB)}, half),
              ElementsAre("student, chat: memory 500 MiB of the limit 400 MiB: MISSED by 25 %"));
  EXPECT_THAT(texts({runtime("teacher", "batch@2", 2, 800 * kMiB), runtime("student", "chat", 1, 500 * kMiB)}, half),
              ElementsAre());
}

// 4 sequences of 5 tokens in 5 s are 4 tokens/s, and the 4 steps of a decode 1 s each; throughput is at least.
TEST(TakenLimits, TimesByHand) {
  const std::vector<MeasuredRuntime> one = {runtime("student", "chat", 1, 1)};
  const auto missed = [&](Quantity quantity, double bound) {
    std::vector<MeasuredRuntime> runtimes = one;
    check_limits(runtimes, kScenarios, [&](const std::string&) {
      return std::vector<Constraint>{{quantity, "chat", bound}};
    });
    return runtimes[0].limits.at(0).missed;
  };
  for (const auto& [quantity, value] : {std::pair(Quantity::latency, 5.0),
                                        {Quantity::time_to_first_token, 1.0},
                                        {Quantity::time_per_output_token, 1.0},
                                        {Quantity::kv_cache, 0.25}}) {
    EXPECT_FALSE(missed(quantity, value * 1.01)) << name_of(quantity);
    EXPECT_TRUE(missed(quantity, value * 0.99)) << name_of(quantity);
  }
  EXPECT_TRUE(missed(Quantity::throughput, 4.01));
  EXPECT_FALSE(missed(Quantity::throughput, 3.99));
}

TEST(TakenLimits, AFreeBatchSizeNeedKeepThemOnce) {
  const std::vector<MeasuredRuntime> both = {runtime("student", "batch@2", 1, 400 * kMiB),
                                             runtime("student", "batch@8", 1, 600 * kMiB)};
  EXPECT_THAT(texts(both, {{Quantity::memory, "batch", 500 * kMiB}}),
              ElementsAre("student, batch@2: memory 400 MiB of the limit 500 MiB: kept"));
  EXPECT_EQ(texts(both, {{Quantity::memory, "batch", 300 * kMiB}}).size(), 2u);
  EXPECT_EQ(texts(both, {{Quantity::memory, "batch@8", 500 * kMiB}}).size(), 1u) << "that one is asked for";
}

TEST(TakenLimits, AreKeptInTheFile) {
  const std::filesystem::path path = std::filesystem::temp_directory_path() / fmt::format("tangram-rt-{}", getpid());
  std::vector<MeasuredRuntime> runtimes = {runtime("student", "chat", 1, 8)};
  runtimes[0].limits = {{"memory", 4, 8, true}, {"latency", 4, 2, false}};
  write_runtimes(path, runtimes);
  EXPECT_EQ(read_runtimes(path).at(0).limits, runtimes[0].limits);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tangram
