// Runs of the whole binary that go wrong: killed (SIGKILL) in the middle of every stage, on a full disk, under limits
// that nothing can meet. Called again, they end with the bytes of a run to which nothing happened.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "distill/corpus.h"
#include "tests/small_model.h"

namespace tangram {
namespace {
namespace fs = std::filesystem;

constexpr const char* kStages[] = {"prepare", "distill",  "score",  "measure", "search",
                                   "uptrain", "evaluate", "export", "report"};

// A folder with a teacher, text and a config that takes a second or two.
class Search {
 public:
  Search() : folder_(fs::temp_directory_path() / fmt::format("tangram-kill-{}", getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    ModelConfig config = small_config();
    config.vocab_size = static_cast<int64_t>(kCorpusSymbols.size());
    const Model teacher = make_model(config, teacher_architecture(config), DType::f32);
    fill_random(teacher, 3);
    save_model(folder_ / "teacher", teacher);
    write_file_atomically(folder_ / "teacher/tokenizer.json", corpus_tokenizer_json());
    write_file_atomically(folder_ / "teacher/tokenizer_config.json", corpus_tokenizer_config_json());
    for (const auto& [name, split] : {std::pair("train.jsonl", Split::train), {"valid.jsonl", Split::validation}}) {
      std::ofstream out(folder_ / name);
      for (int64_t i = 0; i < 60; ++i) {
        std::string text = make_sequence({}, split, i).text;
        for (char& c : text)
          if (c == '\n') c = ' ';
        out << "{\"text\": \"" << text << "\"}\n";
      }
    }
    write_file_atomically(folder_ / "search.yaml", R"(
teacher: teacher
data: {train: [train.jsonl], validation: [valid.jsonl], sequence_length: 32}
search_space: {attention: [gqa_1, linear, no_op], ffn: [0.5, linear, no_op], pairs: [{attention: no_op, ffn: 1.0}]}
distill: {tokens: 25600, batch_tokens: 256, micro_batches: 2, learning_rate: 1e-3}
score: {tokens: 2048}
scenarios: {s: {input_tokens: 8, output_tokens: 8, concurrency: 2, precision: f32}}
constraints: {memory: 70%}
baselines: {random: 2}
uptrain: {tokens: 25600, batch_tokens: 256, learning_rate: 1e-3}
evaluate: {tokens: 1024, without_distillation: true}
threads: 1
checkpoint: 1 ms
)");
  }
  ~Search() { fs::remove_all(folder_); }

  // Runs to the end, or kills the process `delay` after it has said that it begins `stage`. Returns what it printed.
  std::string run(const std::string& run_dir, const std::string& stage = "", std::chrono::microseconds delay = {}) {
    int ends[2];
    if (pipe(ends) != 0) throw Error("pipe");
    const pid_t child = fork();
    if (child == 0) {
      if (file_bytes_at_most > 0) {
        signal(SIGXFSZ, SIG_IGN);
        const rlimit limit = {file_bytes_at_most, file_bytes_at_most};
        setrlimit(RLIMIT_FSIZE, &limit);
      }
      dup2(ends[1], 1), dup2(ends[1], 2);
      close(ends[0]), close(ends[1]);
      execl(TANGRAM_BINARY, "tangram", "run", (folder_ / "search.yaml").c_str(), "--run-dir",
            (folder_ / run_dir).c_str(), "--set", setting.c_str(), nullptr);
      _exit(127);
    }
    close(ends[1]);
    std::string printed;
    char buffer[4096];
    bool killed = false;
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) {
      printed.append(buffer, size_t(n));
      const auto now = std::chrono::steady_clock::now();
      for (const char* name : kStages) {
        if (printed.find(std::string(name) + ": not run yet") != std::string::npos) began_.try_emplace(name, now);
        if (printed.find(std::string(name) + ": done") != std::string::npos) ended_.try_emplace(name, now);
      }
      if (stage.empty() || killed || printed.find(stage + ": not run yet") == std::string::npos) continue;
      std::this_thread::sleep_for(delay);
      kill(child, SIGKILL);
      killed = true;
    }
    close(ends[0]);
    waitpid(child, &status_, 0);
    return printed;
  }
  std::string path(const std::string& name) const { return folder_ / name; }
  std::string setting = "seed=0";  // of the next runs
  rlim_t file_bytes_at_most = 0;   // no file of the next runs may grow beyond: a full disk, but for the errno

  // How long a stage took in the first run that was not killed.
  std::chrono::microseconds duration(const std::string& stage) const {
    return std::chrono::duration_cast<std::chrono::microseconds>(ended_.at(stage) - began_.at(stage));
  }
  int exit_code() const { return WIFEXITED(status_) ? WEXITSTATUS(status_) : -1; }
  bool succeeded() const { return exit_code() == 0; }

  // Every artefact that does not depend on measured times, by its path.
  std::map<std::string, std::string> artefacts(const std::string& run_dir) const {
    std::map<std::string, std::string> all;
    for (const fs::directory_entry& file : fs::recursive_directory_iterator(folder_ / run_dir)) {
      const std::string path = file.path().lexically_relative(folder_ / run_dir).string();
      EXPECT_EQ(path.find(".tmp"), std::string::npos) << path;
      const std::string part = path.substr(0, path.find('/'));
      const bool timed = part == "scores.h5" || part == "architectures" || part == "report.txt" || part == "stages";
      const bool own = path == "lock" || path == "config.yaml";  // the process, and the run directory's own name
      if (file.is_regular_file() && !timed && !own) all[path] = read_text_file(file.path(), 1 << 26);
    }
    return all;
  }

 private:
  fs::path folder_;
  int status_ = 0;
  std::map<std::string, std::chrono::steady_clock::time_point> began_, ended_;
};

TEST(Kill, InTheMiddleOfEveryStageLosesNothing) {
  Search search;
  const std::string printed = search.run("whole");
  ASSERT_TRUE(search.succeeded()) << printed;
  const auto expected = search.artefacts("whole");
  ASSERT_GT(expected.size(), 30u);

  int kills = 0;
  for (const std::string stage : kStages) {
    const std::string run_dir = "killed-" + stage;
    search.run(run_dir, stage, search.duration(stage) / 2);
    kills += !search.succeeded();
    const std::string last = search.run(run_dir);
    ASSERT_TRUE(search.succeeded()) << last;
    const auto found = search.artefacts(run_dir);
    EXPECT_EQ(found.size(), expected.size()) << stage;
    for (const auto& [path, content] : expected)
      EXPECT_TRUE(found.count(path) && found.at(path) == content) << path << " differs after a kill in " << stage;
  }
  EXPECT_GE(kills, 6);  // a short stage, and the run, may be over before its kill
}

TEST(Run, SecondCallRepeatsNothing) {
  Search search;
  search.run("run");
  ASSERT_TRUE(search.succeeded());
  const std::string again = search.run("run");
  ASSERT_TRUE(search.succeeded());
  for (const char* stage :
       {"prepare", "distill", "score", "measure", "search", "uptrain", "evaluate", "export", "report"})
    EXPECT_NE(again.find(std::string(stage) + ": complete"), std::string::npos) << stage << "\n" << again;
}

TEST(Run, PreparedTokensServeAnotherRun) {
  Search search;
  search.run("run");
  ASSERT_TRUE(search.succeeded());
  search.setting = fmt::format("data.train=[{}]", search.path("run/tokens/train"));
  const std::string printed = search.run("other");
  ASSERT_TRUE(search.succeeded()) << printed;
  const auto expected = search.artefacts("run"), found = search.artefacts("other");
  EXPECT_EQ(found.count("tokens/train/tokens-00000.safetensors"), 0u);
  EXPECT_TRUE(found.at("distill.csv") == expected.at("distill.csv"));
  EXPECT_TRUE(found.at("evaluation.json") == expected.at("evaluation.json"));
}

TEST(Run, LimitsThatNothingMeetsAreAnAnswer) {
  Search search;
  search.setting = "constraints.memory=1%";
  const std::string printed = search.run("run");
  EXPECT_EQ(search.exit_code(), 3) << printed;
  EXPECT_NE(printed.find("memory (s): at most"), std::string::npos) << printed;
  EXPECT_NE(printed.find("the least attainable by any student is"), std::string::npos) << printed;
  // What was finished stays, and another limit needs only the search and what follows it.
  search.setting = "constraints.memory=80%";
  const std::string again = search.run("run");
  EXPECT_TRUE(search.succeeded()) << again;
  EXPECT_NE(again.find("measure: complete"), std::string::npos) << again;
}

TEST(Run, NeedsNothingToTrain) {
  Search search;
  search.setting = "search_space={attention: [no_op], ffn: [no_op]}";
  const std::string printed = search.run("run");
  EXPECT_TRUE(search.succeeded()) << printed;
}

TEST(Run, AFullDiskIsNamedAndCostsOnlyTheStageAtWork) {
  Search search;
  search.run("whole");
  ASSERT_TRUE(search.succeeded());
  search.file_bytes_at_most = 100'000;  // less than a checkpoint of all variants
  const std::string printed = search.run("full");
  EXPECT_EQ(search.exit_code(), 1) << printed;
  EXPECT_NE(printed.find("File too large"), std::string::npos) << printed;
  search.file_bytes_at_most = 0;
  const std::string again = search.run("full");
  ASSERT_TRUE(search.succeeded()) << again;
  EXPECT_NE(again.find("prepare: complete"), std::string::npos) << again;
  const auto expected = search.artefacts("whole"), found = search.artefacts("full");
  EXPECT_TRUE(found == expected);
}

}  // namespace
}  // namespace tangram
