#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "tests/blocks/damage.h"
#include "tests/nas/command_line.h"
#include "tests/nas/letters.h"
#include "tests/small_model.h"

namespace tangram {

namespace fs = std::filesystem;
using Arguments = std::vector<std::string>;

/// At the end of a message that goes on, on its line, in the words of a library.
inline constexpr std::string_view kMore = "…";

inline constexpr const char* kSearch = R"(teacher: m
data: {train: [text.jsonl], validation: [text.txt], sequence_length: 8}
search_space: {attention: [no_op], ffn: [no_op]}
scenarios: {s: {input_tokens: 8, output_tokens: 8, concurrency: 2, precision: f32}}
constraints: {memory: 90%}
run_dir: r
threads: 1
)";

using json = nlohmann::json;
using Change = std::function<void()>;

inline constexpr const char* kWeights = "m/model.safetensors";
inline constexpr const char* kIndex = "m/model.safetensors.index.json";
inline constexpr const char* kConfig = "m/config.json";
inline constexpr const char* kTokenizer = "m/tokenizer.json";
inline constexpr const char* kNorm = "model.norm.weight";

inline const Arguments kLogits{"logits", "m", "--tokens", "ids", "--output", "out"};
inline const Arguments kGenerate{"generate", "m", "abc"};
inline const Arguments kEvaluate{"evaluate", "m", "--data", "text.jsonl", "--sequence-length", "8"};
inline const Arguments kEvaluateTxt{"evaluate", "m", "--data", "text.txt", "--sequence-length", "8"};
inline const Arguments kRun{"run", "c.yaml", "--quiet"};
inline const Arguments kRunTxt{"run", "c.yaml", "--quiet", "--set", "data.train=[text.txt]"};

// What may be wrong with a file.

inline Change text_is(const char* path, std::string text) {
  return [=] { write_text(path, text); };
}
inline Change is_cut(const char* path, int64_t bytes_less) {
  return [=] { fs::resize_file(path, fs::file_size(path) - uintmax_t(bytes_less)); };
}
inline Change is_missing(const char* path) {
  return [=] { fs::remove(path); };
}
inline Change is_folder(const char* path) {
  return [=] { fs::remove(path), fs::create_directory(path); };
}
inline Change is_link_to_itself(const char* path) {
  return [=] { fs::remove(path), fs::create_symlink(fs::path(path).filename(), path); };
}
inline Change is_link_to_nothing(const char* path) {
  return [=] { fs::remove(path), fs::create_symlink("gone", path); };
}
inline Change header(std::function<void(json&)> change) {
  return [=] { change_header(kWeights, change); };
}
inline Change header_text(std::function<void(std::string&)> change) {
  return [=] { change_header_text(kWeights, change); };
}
inline Change header_is(std::string text) {
  return header_text([=](std::string& header) { header = text; });
}
inline Change norm(const char* key, json value) {
  return header([=](json& h) { h[kNorm][key] = value; });
}
inline Change norm_is_called(const std::string& name) {
  return header([=](json& h) { h[name] = h[kNorm], h.erase(kNorm); });
}
inline Change config(const char* key, json value) {
  return [=] { change_json(kConfig, [&](json& j) { j[key] = value; }); };
}
inline Change tokenizer(std::function<void(json&)> change) {
  return [=] { change_json(kTokenizer, change); };
}

/// What a run directory has before the first stage is complete.
inline bool is_bookkeeping(const fs::path& path) {
  for (const char* name :
       {"r/config.yaml", "r/lock", "r/run.json", "r/work/prepare/inputs.json", "r/work/pretrain/inputs.json"})
    if (path == name) return true;
  return false;
}

/// Every file below the working directory, with its content, and every folder that is being written.
inline std::map<std::string, std::string> files_here() {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(".")) {
    const fs::path path = entry.path().lexically_relative(".");
    const bool is_file = !entry.is_symlink() && entry.is_regular_file();
    if (is_file && !is_bookkeeping(path)) files[path] = read_text_file(path, 1 << 20);
    if (!is_file && path.extension() == ".tmp") files[path] = "";
  }
  return files;
}

/// Runs a command; in what it says against it, paths are relative, though those of a run are not.
inline Outcome call(const Arguments& arguments) {
  Outcome outcome = call_with(arguments, all_stages(), all_model_verbs());
  const std::string here = fs::current_path().string() + "/";
  for (size_t at; (at = outcome.err.find(here)) != std::string::npos;) outcome.err.erase(at, here.size());
  return outcome;
}

/// A working directory with what every verb needs: the model `m`, `ids`, `text.jsonl`, `text.txt` and `c.yaml`.
class BadInput : public testing::Test {
 protected:
  BadInput() {
    fs::current_path(folder_.path);
    save_model("model", small_teacher());
    write_text("model/tokenizer.json", letters_tokenizer());
    restore();
  }
  ~BadInput() { fs::current_path(before_); }

  void restore() {
    for (const fs::directory_entry& entry : fs::directory_iterator("."))
      if (entry.path().filename() != "model") fs::remove_all(entry.path());
    fs::copy("model", "m");
    const int32_t ids[] = {1, 2, 3};
    write_text("ids", file_of(R"({"input_ids":{"dtype":"I32","shape":[3],"data_offsets":[0,12]}})",
                              {reinterpret_cast<const char*>(ids), sizeof ids}));
    write_text("text.jsonl", letters_jsonl(3, 8));
    write_text("text.txt", letters(30, 5));
    write_text("c.yaml", kSearch);
  }

  /// Exit code 2 and this one message; nothing is printed beside it, and no file is made, changed or left half-written.
  void expect_refused(const Arguments& arguments, const std::string& message) {
    SCOPED_TRACE(fmt::format("tangram {}", fmt::join(arguments, " ")));
    const auto before = files_here();
    testing::internal::CaptureStderr();  // of libraries, which know nothing of ours
    Outcome outcome = call(arguments);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    const std::string expected = "tangram: " + message;
    if (const size_t known = expected.size() - kMore.size(); message.ends_with(kMore) && known < outcome.err.size())
      outcome.err.replace(known, outcome.err.find('\n', known) - known, kMore);
    EXPECT_EQ(outcome.err, expected + "\n");
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(files_here() == before) << "a file was made or changed";
    fs::remove_all("r");
  }

  struct Case {
    const char* name;
    std::function<void()> damage;
    std::string message;
  };

  /// Each case on files that are good otherwise, by each of the commands.
  void expect_refused(const std::vector<Arguments>& commands, const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      SCOPED_TRACE(c.name);
      restore();
      c.damage();
      for (const Arguments& arguments : commands) expect_refused(arguments, c.message);
    }
  }

 private:
  const fs::path before_ = fs::current_path();
  TestFolder folder_;
};

}  // namespace tangram
