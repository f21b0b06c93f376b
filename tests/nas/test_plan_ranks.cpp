#include "nas/plan_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/random.h"
#include "tests/nas/command_line.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const fs::path kConfigs = fs::path(TANGRAM_SOURCE_DIR) / "configs";

Outcome plan(std::vector<std::string> options) {
  options.insert(options.begin(), {"plan", kConfigs / "llama-3.1-70b-cluster.yaml", "--gpu", "h100-80gb"});
  return call_with(options, all_stages(), all_model_verbs());
}

// Oracle: the recursion of the definition, for every step and stage anew.
struct Recursion {
  std::span<const StageTimes> stages;
  double input(size_t s, int64_t step) const {
    if (s == 0) return 0;
    const double computed = begin(s - 1, step) + stages[s - 1].until_send;
    return std::max(computed, step > 0 ? begin(s, step - 1) : 0) + stages[s - 1].transfer;
  }
  double begin(size_t s, int64_t step) const {
    const double before = step > 0 ? begin(s, step - 1) + stages[s].compute : 0;
    return std::max(before, input(s, step));
  }
};

TEST(SimulatePipeline, FollowsItsDefinition) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    std::vector<StageTimes> stages(1 + seed % 4);
    for (size_t s = 0; s < stages.size(); ++s) {
      const auto random = [&](uint64_t i) { return double(random_below(100, seed, s, i)) / 10; };
      stages[s] = {.compute = random(0) + 1, .until_send = 0, .transfer = random(2)};
      stages[s].until_send = stages[s].compute * double(random_below(100, seed, s, 1)) / 100;
    }
    const std::vector<double> ends = simulate_pipeline(stages, 5);
    for (size_t s = 0; s < stages.size(); ++s)
      EXPECT_NEAR(ends[s], Recursion{stages}.begin(s, 4) + stages[s].compute, 1e-9) << seed << " " << s;
  }
}

TEST(SimulatePipeline, EqualStagesWaitOnlyWhileItFills) {
  const std::vector<StageTimes> stages(4, {.compute = 2, .until_send = 2, .transfer = 0});
  EXPECT_DOUBLE_EQ(simulate_pipeline(stages, 100).back(), 2 * (100 + 3));
}

TEST(SimulatePipeline, TransfersRunBesideTheComputation) {
  std::vector<StageTimes> stages(3, {.compute = 2, .until_send = 2, .transfer = 1.5});
  EXPECT_DOUBLE_EQ(simulate_pipeline(stages, 100).back(), 2 * 100 + 2 * 3.5);
  stages[1].compute = 3;  // the slowest sets the pace
  EXPECT_NEAR(simulate_pipeline(stages, 100).back(), 3 * 100, 12);
}

// The figure for the paper's space on 64 ranks.
TEST(PlanRanks, SixtyFourRanksOf70BWork) {
  const Outcome outcome = plan({"--gpus", "64", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const nlohmann::json json = nlohmann::json::parse(outcome.out);
  EXPECT_GE(json["utilisation"].get<double>(), 0.9);
  EXPECT_TRUE(json["fits"].get<bool>());
  EXPECT_EQ(json["stages"].size() * json["replicas"].get<size_t>(), 64u);
  EXPECT_EQ(json["stages"].back()["layers"][1], 80);
  int64_t memory = 0;
  for (const auto& [part, bytes] : json["memory_bytes"].items()) {
    EXPECT_GE(bytes.get<int64_t>(), 0) << part;
    memory += bytes.get<int64_t>();
  }
  EXPECT_LE(memory, known_gpu("h100-80gb").memory_bytes);
}

TEST(PlanRanks, AGridThatDoesNotDivideIsRefusedWithTheNearest) {
  const Outcome outcome = plan({"--gpus", "1000000"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("1000000 ranks for 160 units of work"));
  EXPECT_THAT(outcome.err, HasSubstr("take 640 ranks"));
}

TEST(PlanRanks, ShardsThatWouldDoBetterAreNamed) {
  const Outcome outcome = plan({"--gpus", "256"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("better: distill.shards="));
}

}  // namespace
}  // namespace tangram
