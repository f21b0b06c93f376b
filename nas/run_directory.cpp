#include "nas/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "blocks/file.h"
#include "kernels/error.h"
#include "nas/digest.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr const char* kMarker = "inputs.json";  // in a work folder: for which inputs its checkpoints are

Error system_error(const fs::path& path) { return Error(fmt::format("{}: {}", path.string(), std::strerror(errno))); }

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

/// The JSON object in a file; nothing if there is no file. Throws Error if the file is no such object.
std::optional<nlohmann::json> read_json(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  nlohmann::json json = nlohmann::json::parse(text.str(), nullptr, false);
  if (!json.is_object()) throw Error(fmt::format("{} is damaged", path.string()));
  return json;
}

/// A stage's record, with its fields checked.
struct Record {
  std::string inputs, output;
  std::vector<std::string> files;
};

std::optional<Record> read_record(const fs::path& path) {
  const std::optional<nlohmann::json> json = read_json(path);
  if (!json) return std::nullopt;
  try {
    return Record{json->at("inputs"), json->at("output"), json->at("files")};
  } catch (const nlohmann::json::exception&) {
    throw Error(fmt::format("{} is damaged", path.string()));
  }
}

fs::path record_path_of(const fs::path& root, std::string_view stage) {
  return root / "stages" / fmt::format("{}.json", stage);
}
fs::path work_path_of(const fs::path& root, std::string_view stage) { return root / "work" / stage; }

int lock_folder(const fs::path& root) {
  const fs::path path = root / "lock";
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) throw system_error(path);
  FileDescriptor guard{fd};
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    char holder[32] = {};
    const ssize_t size = pread(fd, holder, sizeof holder - 1, 0);
    throw Error(fmt::format("{}: process {} is at work on this run directory", root.string(),
                            size > 0 ? std::string(holder) : "unknown"));
  }
  const std::string pid = std::to_string(getpid());
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) < 0) throw system_error(path);
  guard.fd = -1;
  return fd;
}

/// Whether a stage is complete or has a checkpoint: what a change of teacher would make worthless.
bool has_results(const fs::path& root) {
  std::error_code absent;
  for (const auto& record : fs::directory_iterator(root / "stages", absent))
    if (record.path().extension() == ".json") return true;
  for (const auto& file : fs::recursive_directory_iterator(root / "work", absent))
    if (file.is_regular_file() && file.path().filename() != kMarker) return true;
  return false;
}

/// Without results the run directory is for any teacher: the first may have been refused and mended.
void check_teacher(const fs::path& root, const std::string& teacher_digest) {
  const fs::path path = root / "run.json";
  const std::optional<nlohmann::json> json = read_json(path);
  if (json && json->value("teacher", nlohmann::json()) == teacher_digest) return;
  if (json && has_results(root))
    throw bad_input("{}: this run directory belongs to another teacher; give another --run-dir, or delete it",
                    root.string());
  write_file_atomically(path, nlohmann::json{{"teacher", teacher_digest}}.dump(2) + "\n");
}

void remove_temporary_files(const fs::path& root) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (entry.path().extension() == ".tmp") found.push_back(entry.path());
  for (const fs::path& path : found) fs::remove_all(path);
}

/// Work folders of stages that are complete: killed before they were gone.
void remove_finished_work(const fs::path& root) {
  std::error_code absent;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(root / "work", absent))
    if (fs::exists(record_path_of(root, entry.path().filename().string()))) found.push_back(entry.path());
  for (const fs::path& path : found) fs::remove_all(path);
}

/// A folder that is not ours stays untouched: temporary files are removed below a run directory.
void check_ours(const fs::path& root) {
  if (fs::exists(root / "run.json")) return;
  for (const auto& entry : fs::directory_iterator(root))
    if (entry.path().filename() != "lock" && entry.path().extension() != ".tmp")
      throw bad_input("{}: this folder is not empty and no run directory (it has no run.json); give another --run-dir",
                      root.string());
}

}  // namespace

RunDirectory::RunDirectory(const fs::path& folder, const std::string& teacher_digest) : root(folder) {
  std::error_code error;
  fs::create_directories(root, error);
  if (error) throw bad_input("{}: {}", root.string(), error.message());
  check_ours(root);
  lock_ = lock_folder(root);
  FileDescriptor guard{lock_};
  remove_temporary_files(root);
  remove_finished_work(root);
  check_teacher(root, teacher_digest);
  fs::create_directories(root / "stages");
  guard.fd = -1;
}

RunDirectory::~RunDirectory() { close(lock_); }

std::string reason_incomplete(const fs::path& root, std::string_view stage) try {
  const std::optional<Record> record = read_record(record_path_of(root, stage));
  if (!record) return fs::exists(work_path_of(root, stage)) ? "not complete yet" : "not run yet";
  for (const std::string& file : record->files)
    if (!fs::exists(root / file)) return fmt::format("{} is gone", (root / file).string());
  return "";
} catch (const Error& damaged) {
  return damaged.what();
}

std::string RunDirectory::reason_to_run(std::string_view stage, const std::string& inputs) const {
  const std::string reason = reason_incomplete(root, stage);
  if (!reason.empty()) return reason;
  return read_record(record_path(stage))->inputs == inputs ? "" : "its settings or inputs have changed";
}

std::string RunDirectory::output_digest(std::string_view stage) const {
  const std::optional<Record> record = read_record(record_path(stage));
  if (!record) throw bad_input("{}: stage {} is not complete", root.string(), stage);
  return record->output;
}

fs::path RunDirectory::begin(std::string_view stage, const std::string& inputs) {
  fs::remove(record_path(stage));
  const fs::path work = work_path(stage), marker = work / kMarker;
  bool same = false;
  try {
    const std::optional<nlohmann::json> json = read_json(marker);
    same = json && json->value("inputs", nlohmann::json()) == inputs;
  } catch (const Error&) {
    // A damaged marker vouches for no checkpoint.
  }
  if (!same) {
    fs::remove_all(work);
    fs::create_directories(work);
    write_file_atomically(marker, nlohmann::json{{"inputs", inputs}}.dump(2) + "\n");
  }
  return work;
}

void RunDirectory::complete(std::string_view stage, const std::string& inputs, std::span<const fs::path> outputs) {
  Digest output;
  std::vector<std::string> files;
  for (const fs::path& path : outputs) {
    files.push_back(path.lexically_proximate(root).string());
    output.add(files.back() + "\n" + fingerprint(path));
  }
  const nlohmann::ordered_json record = {
      {"stage", stage}, {"inputs", inputs}, {"output", output.text()}, {"files", files}};
  write_file_atomically(record_path(stage), record.dump(2) + "\n");
  fs::remove_all(work_path(stage));
}

fs::path RunDirectory::record_path(std::string_view stage) const { return record_path_of(root, stage); }
fs::path RunDirectory::work_path(std::string_view stage) const { return work_path_of(root, stage); }

}  // namespace tangram
