// What the search verb, a run and its export say of servers.

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "nas/architecture_file.h"
#include "nas/model_verbs.h"
#include "nas/stages.h"
#include "tests/blocks/folder.h"
#include "tests/nas/command_line.h"
#include "tests/nas/search_process.h"

namespace tangram {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Outcome tangram(const std::vector<std::string>& arguments) {
  return call_with(arguments, all_stages(), all_model_verbs());
}

/// Three layers of FFNs of 100 bytes, and of attention that takes 80, 40 or 20 bytes by its KV heads; linear takes 10,
/// a window 5, and loses least.
struct ServableVerb : testing::Test {
  TestFolder folder;
  std::string scores = (folder.path / "scores.h5").string();

  Outcome search(std::vector<std::string> options) {
    options.insert(options.begin(), {"search", scores});
    return tangram(options);
  }

  void SetUp() override {
    std::string csv = "layer,attention,ffn,teacher,kl,weight_bytes\n";
    for (int layer = 0; layer < 3; ++layer)
      csv += fmt::format(
          "{0},gqa_4,,1,0,80\n{0},gqa_2,,0,1,40\n{0},gqa_1,,0,3,20\n{0},linear,,0,7,10\n{0},window_16,,0,0.1,5\n"
          "{0},,ffn_64,1,0,100\n",
          layer);
    write_file_atomically(folder.path / "scores.csv", csv);
    const Outcome imported =
        tangram({"import-scores", (folder.path / "scores.csv").string(), "--out", scores, "--scenario", "chat=8/10/4"});
    ASSERT_EQ(imported.code, 0) << imported.err;
  }
};

TEST_F(ServableVerb, FindsAndKeepsWhatTheServersRun) {
  const std::string out = (folder.path / "students").string();
  const Outcome found = search(
      {"--limit", "memory=500B", "--servable", "vllm", "--servable", "sglang", "--servable", "vllm", "--out", out});
  ASSERT_EQ(found.code, 0) << found.err;
  EXPECT_THAT(found.out, HasSubstr("servable vllm, sglang: 2 KV heads in all full attention, the best of 3 numbers\n"));
  const ChosenArchitecture student = read_architecture(out + "/student.yaml");
  EXPECT_THAT(student.servable, ElementsAre("vllm", "sglang"));
  for (const ChosenBlock& block : student.blocks) EXPECT_EQ(block.attention, "gqa_2");
  EXPECT_TRUE(student.proven);

  const Outcome one = search({"--limit", "memory=500B", "--servable", "llama.cpp"});
  EXPECT_THAT(one.out, HasSubstr("servable llama.cpp\n"));
  const json answer = json::parse(search({"--limit", "memory=400B", "--servable", "all", "--json"}).out);
  EXPECT_EQ(answer.at("servable").size(), 5u);
  EXPECT_EQ(answer.at("students").at(0).at("blocks").at(0).at("attention"), "gqa_1");

  const Outcome traced = search({"--frontier", "memory", "--points", "4", "--servable", "sglang", "--out", out});
  ASSERT_EQ(traced.code, 0) << traced.err;
  EXPECT_THAT(traced.out, Not(HasSubstr("batch")));
  EXPECT_THAT(read_architecture(out + "/frontier-001.yaml").servable, ElementsAre("sglang"));
}

TEST_F(ServableVerb, IsNamedAmongWhatConflicts) {
  const std::string out = (folder.path / "none").string();
  const Outcome none = search({"--limit", "memory=350B", "--servable", "sglang", "--out", out});
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.err, HasSubstr("no student keeps the limits and the rules"));
  EXPECT_THAT(none.err, HasSubstr("of 3 numbers of KV heads for all full attention, 1 comes nearest\n"
                                  "these exclude each other:\n"
                                  "  memory (chat): at most 350 B\n  servable sglang\n"
                                  "any one of these changes alone would do:\n"
                                  "  memory (chat): 360 B\n  without servable sglang\n"));
  EXPECT_THAT(read_architecture(out + "/nearest.yaml").servable, ElementsAre("sglang"));
  const json answer = json::parse(search({"--limit", "memory=350B", "--servable", "sglang", "--json"}).out);
  EXPECT_EQ(answer.at("rules"),
            json::array({{{"rule", "servable sglang"}, {"in_conflict", true}, {"enough_without", true}}}));
  // A window is what a rule forbids, too: without the servers alone there is still none.
  const Outcome both =
      search({"--limit", "memory=325B", "--servable", "sglang", "--forbid", "all:attention=window_16"});
  EXPECT_THAT(both.err, Not(HasSubstr("without servable")));
}

TEST_F(ServableVerb, UnknownServersGetTheNearestName) {
  const Outcome unknown = search({"--limit", "memory=500B", "--servable", "vlm"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("no server 'vlm'; did you mean 'vllm'?"));
}

TEST(ServableRun, SaysWhichServersRunItsStudents) {
  Search search;
  search.setting = "constraints.servable=[sglang, llama.cpp]";
  const std::string none = search.call({"export", "--check", "vllm"}, "run");
  EXPECT_EQ(search.exit_code(), 2);
  EXPECT_THAT(none, HasSubstr("no students yet; first: tangram search CONFIG"));

  const std::string printed = search.run("run");
  ASSERT_TRUE(search.succeeded()) << printed;
  EXPECT_THAT(printed, HasSubstr("export student:\n  llama.cpp: runs it"));
  const std::string report = read_text_file(search.path("run/report.txt"), 1 << 20);
  EXPECT_THAT(report, HasSubstr("  servable sglang, llama.cpp\n"));
  EXPECT_THAT(report, HasSubstr("exported to export/student; servers\n\n  llama.cpp: runs it"));
  EXPECT_THAT(report, HasSubstr("\n  sglang: runs it"));
  for (const ChosenArchitecture& chosen : read_architectures(search.path("run/architectures"))) {
    EXPECT_THAT(chosen.servable, ElementsAre("sglang", "llama.cpp")) << chosen.name;
    for (const ChosenBlock& block : chosen.blocks) EXPECT_NE(block.ffn, "linear") << chosen.name;
  }

  // Without writing: what is exported stays as it is, even where it is gone.
  fs::remove_all(search.path("run/export"));
  const std::string check = search.call({"export", "--check", "sglang", "--check", "llama.cpp"}, "run");
  EXPECT_TRUE(search.succeeded()) << check;
  EXPECT_THAT(check, HasSubstr("'student'\nsglang (commit "));
  EXPECT_THAT(check, HasSubstr("\n'student-random-1'\nsglang (commit "));
  EXPECT_FALSE(fs::exists(search.path("run/export")));
  search.call({"export", "--check", "vlm"}, "run");
  EXPECT_EQ(search.exit_code(), 2);

  // A student that one of them cannot run.
  ChosenArchitecture linear = read_architecture(search.path("run/architectures/student.yaml"));
  linear.name = "linear";
  for (ChosenBlock& block : linear.blocks) block = {"gqa_1", "linear", block.layers, block.layers > 1};
  write_architecture(search.path("run/architectures/linear.yaml"), linear);
  const std::string refused = search.call({"export", "--check", "sglang"}, "run");
  EXPECT_EQ(search.exit_code(), 3);
  EXPECT_THAT(refused, HasSubstr("'linear'\nsglang (commit 15a024d): cannot run this model\n"));
  EXPECT_THAT(refused, HasSubstr("not all of these servers can run all of these students"));
}

}  // namespace
}  // namespace tangram
