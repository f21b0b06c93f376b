#pragma once
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

#include "blocks/file.h"
#include "tests/nas/search_folder.h"

namespace tangram {

inline constexpr const char* kStages[] = {"prepare", "distill",  "score",  "measure", "search",
                                          "uptrain", "evaluate", "export", "report"};

// A search as a process of its own, in a folder that write_search_folder has filled.
class Search {
 public:
  Search() : folder_(fs::temp_directory_path() / fmt::format("tangram-kill-{}", getpid())) {
    write_search_folder(folder_);
  }
  ~Search() { fs::remove_all(folder_); }

  // Runs to the end, or kills the process `delay` after it has said that it begins `stage`. Returns what it printed.
  std::string run(const std::string& run_dir, const std::string& stage = "", std::chrono::microseconds delay = {}) {
    return call({"run"}, run_dir, stage, delay);
  }
  // The same with another verb, and its options.
  std::string call(std::vector<std::string> arguments, const std::string& run_dir, const std::string& stage = "",
                   std::chrono::microseconds delay = {}) {
    arguments.insert(arguments.begin(), "tangram");
    for (const std::string& a : {std::string(folder_ / "search.yaml"), std::string("--run-dir"),
                                 std::string(folder_ / run_dir), std::string("--set"), setting})
      arguments.push_back(a);
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
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
      execv(TANGRAM_BINARY, argv.data());
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
      if (stage.empty() || killed || printed.find(stage + ": not ") == std::string::npos) continue;
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
      const bool timed = part == "scores.h5" || part == "architectures" || part == "report.txt" ||
                         part == "runtime.json" || part == "stages";
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

}  // namespace tangram
