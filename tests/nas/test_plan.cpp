#include "nas/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "blocks/config_json.h"
#include "tests/nas/command_line.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const fs::path kConfigs = fs::path(TANGRAM_SOURCE_DIR) / "configs";

Outcome call(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "plan");
  return call_with(arguments, all_stages(), all_model_verbs());
}

nlohmann::json plan_of(const std::string& config, std::vector<std::string> options) {
  options.insert(options.begin(), {kConfigs / config, "--json"});
  const Outcome outcome = call(options);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return nlohmann::json::parse(outcome.out);
}

// Oracle: the parameter counts that Meta's checkpoints have.
TEST(Plan, CountsTheParametersOfLlama) {
  for (const auto& [size, count] :
       {std::pair("8b", 8'030'261'248), {"70b", 70'553'706'496}, {"405b", 405'853'388'800}}) {
    const SearchConfig config = read_search_config(kConfigs / fmt::format("llama-3.1-{}.yaml", size));
    const ModelConfig teacher = read_config(config.teacher.folder).config;
    EXPECT_EQ(plan_run(config, teacher, known_gpu("h200")).parameters, count) << size;
  }
}

// Oracle: the sums by hand for one layer of 70B on 16,384 tokens of sequences of 8192.
TEST(Plan, AgreesWithSumsByHand) {
  const nlohmann::json plan = plan_of("llama-3.1-70b.yaml", {"--gpu", "h200", "--set", "distill.tokens=1638400"});
  const nlohmann::json& distill = plan["stages"][0];
  const double H = 8192, I = 28672, Q = 8192, N = 16384, steps = 100, layers = 80, T = 8192;
  double parameters = 2 * H * H, input = 2 * H * H;  // both linear; input parameters multiply the shared input
  double attention_variants = 0;
  for (const double kv : {4 * 128, 2 * 128, 1 * 128})
    parameters += H * (Q + 2 * kv) + H * Q, input += H * (Q + 2 * kv), ++attention_variants;
  for (const double ratio : {0.87, 0.75, 0.5, 0.25, 0.2, 0.1}) {
    const double width = 256 * std::round(ratio * I / 256);
    parameters += 3 * H * width, input += 2 * H * width;
  }
  EXPECT_EQ(distill["memory_bytes"]["variants' parameters"], 2 * parameters);
  EXPECT_EQ(distill["memory_bytes"]["f32 masters"], 4 * parameters);
  EXPECT_EQ(distill["memory_bytes"]["moments"], 8 * parameters);
  EXPECT_EQ(distill["memory_bytes"]["gradients"], 4 * parameters);
  // The teacher forward; input parameters forward and their gradients; the others and their input's gradients, too.
  const double teacher = H * (Q + 2 * 8 * 128) + H * Q + 3 * H * I;
  const double products = 2 * N * (teacher + 2 * input + 3 * (parameters - input));
  const double attention = 4 * (N / T) * (T * (T + 1) / 2) * Q * (1 + attention_variants * 3.5);
  EXPECT_NEAR(double(distill["flops"]), steps * layers * (products + attention), 1e-9 * double(distill["flops"]));
  EXPECT_EQ(plan["disk_bytes"]["2 boundaries"], 2 * steps * N * H * 2);
  EXPECT_EQ(plan["disk_bytes"]["library"], layers * 2 * parameters);
  EXPECT_EQ(plan["disk_bytes"]["3 checkpoints"], 3 * 12 * parameters);
}

TEST(Plan, FitsTheGpusThatTheConfigsAreFor) {
  EXPECT_TRUE(
      plan_of("llama-3.1-8b.yaml", {"--gpu", "h200", "--set", "distill.order=depth_first"})["stages"][0]["fits"]);
  EXPECT_TRUE(plan_of("llama-3.1-70b.yaml", {"--gpu", "h200"})["stages"][0]["fits"]);
}

// Parts are taken from what the layout counts as a whole, so the last of them is what the others leave.
TEST(Plan, HasNoPartOfLessThanNothing) {
  for (const char* config : {"quickstart.yaml", "llama-3.1-8b.yaml"})
    for (const char* order : {"breadth_first", "depth_first"}) {
      const Outcome outcome =
          call({kConfigs / config, "--json", "--gpu", "h200", "--set", fmt::format("distill.order={}", order)});
      const nlohmann::json plan = nlohmann::json::parse(outcome.out);
      for (const nlohmann::json& stage : plan["stages"])
        for (const auto& [part, bytes] : stage["memory_bytes"].items())
          EXPECT_GE(bytes, 0) << config << " " << order << " " << stage["name"] << " " << part;
    }
}

TEST(Plan, ScoresMoreAtOnceWhereTheGpuHasRoom) {
  const SearchConfig config =
      read_search_config(kConfigs / "llama-3.1-8b.yaml", std::vector<std::string>{"data.sequence_length=1024"});
  const ModelConfig teacher = read_config(config.teacher.folder).config;
  const auto tokens = [&](const PlanMachine& machine, int64_t sequences = 1000) {
    return 1024 * sequences_at_once(config, teacher, sequences, machine);
  };
  PlanMachine gpu = known_gpu("h200");
  EXPECT_EQ(tokens(gpu), 4 * kScoringTokens);
  EXPECT_EQ(tokens(gpu, 5), 5 * 1024) << "there are no more";
  gpu.in_use_bytes = gpu.memory_bytes / 3 * 2, gpu.memory_bytes -= gpu.in_use_bytes;
  EXPECT_EQ(tokens(gpu), 4 * kScoringTokens) << "others' use of it would change the last bits of scores";
  gpu.memory_bytes = int64_t{20} << 30, gpu.in_use_bytes = 0;
  EXPECT_EQ(tokens(gpu), kScoringTokens);
  EXPECT_EQ(tokens({}), kScoringTokens);
}

TEST(Plan, RefusesTooLittleMemoryAndSaysWhatToChange) {
  const Outcome outcome =
      call({kConfigs / "llama-3.1-70b.yaml", "--gpu", "h200", "--set", "distill.order=breadth_first"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.out, HasSubstr("DOES NOT FIT"));
  EXPECT_THAT(outcome.err, HasSubstr("h200 has 139 GiB; distill.order=depth_first takes"));
}

TEST(Plan, RefusesASmallDiskAndSaysWhatFits) {
  const Outcome outcome = call({kConfigs / "llama-3.1-70b.yaml", "--gpu", "h200", "--disk", "2TB"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("1.82 TiB are free; with distill.tokens="));
  const std::string text = outcome.err.substr(outcome.err.find("tokens=") + 7);
  const std::string tokens = text.substr(0, text.find(' '));
  EXPECT_EQ(
      call({kConfigs / "llama-3.1-70b.yaml", "--gpu", "h200", "--disk", "2TB", "--set", "distill.tokens=" + tokens})
          .code,
      0);
  EXPECT_EQ(call({kConfigs / "llama-3.1-70b.yaml", "--gpu", "h200", "--disk", "2TB", "--set",
                  fmt::format("distill.tokens={}", std::stoll(tokens) + 2 * 16384)})
                .code,
            3);
}

TEST(Plan, PlansForThisMachineToo) {
  const Outcome outcome = call({kConfigs / "quickstart.yaml", "--run-dir", testing::TempDir() + "/planned"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("this machine"));
  EXPECT_THAT(outcome.out, HasSubstr("CPU-hours"));
  EXPECT_FALSE(fs::exists(testing::TempDir() + "/planned"));
}

// By the model's own account: the student has at least twice the rate, on one GPU, and less than the teacher in it.
TEST(Plan, PlansServingOnHardwareByName) {
  const nlohmann::json plan = plan_of("llama-3.1-8b.yaml", {"--hardware", "h100-80gb"});
  ASSERT_EQ(plan["loads"].size(), 6u);
  for (const nlohmann::json& load : plan["loads"]) {
    const double teacher = load["teacher_at_its_best"]["tokens_per_s_and_device"];
    EXPECT_GE(teacher, load["teacher_on_one_device"]["tokens_per_s_and_device"]);
    ASSERT_FALSE(load["student"].is_null()) << load;
    EXPECT_GE(load["student"]["tokens_per_s_and_device"], 1.999 * teacher);
    EXPECT_LT(load["student"]["parameters"], 8'030'261'248);
    EXPECT_EQ(load["student"]["scores"], "generated");
  }
  const Outcome text = call({kConfigs / "llama-3.1-405b.yaml", "--hardware", "cpu"});
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("does not fit"));
}

TEST(Plan, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(call({kConfigs / "quickstart.yaml", "--hardware", "h300"}).code, 2);
  EXPECT_THAT(call({kConfigs / "quickstart.yaml", "--hardware", "h100"}).err, HasSubstr("did you mean 'h100-80gb'?"));
  EXPECT_EQ(call({kConfigs / "quickstart.yaml", "--gpu", "h300"}).code, 2);
  for (const auto& [option, value] : {std::pair("--gpu", "h200"), {"--gpus", "8"}, {"--disk", "2TB"}}) {
    const Outcome both = call({kConfigs / "quickstart.yaml", "--hardware", "h200", option, value});
    EXPECT_EQ(both.code, 2);
    EXPECT_THAT(both.err, HasSubstr(fmt::format("{} with --hardware: ", option)));
  }
  EXPECT_EQ(call({kConfigs / "quickstart.yaml", "--disk", "much"}).code, 2);
  EXPECT_EQ(call({"none.yaml"}).code, 2);
}

}  // namespace
}  // namespace tangram
