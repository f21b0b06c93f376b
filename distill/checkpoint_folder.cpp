#include "distill/checkpoint_folder.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <thread>

#include "blocks/file.h"
#include "blocks/json.h"
#include "blocks/sha256.h"
#include "kernels/transfer.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr const char* kManifest = "manifest.json";
constexpr std::string_view kStep = "step-";
constexpr int64_t kMaxManifestBytes = int64_t{1} << 26;
constexpr int64_t kPieceBytes = int64_t{8} << 20;  // of a tensor, between memory, digest and file
constexpr size_t kKept = 2;
constexpr std::chrono::seconds kSignOfLife{1};

constexpr std::string_view kRecordEnd = ".json";

std::string part_name(size_t rank) { return fmt::format("part-{}.safetensors", rank); }
std::string record_name(size_t rank) { return fmt::format("part-{}{}", rank, kRecordEnd); }

/// The number behind `step-`; none if the name is not ours.
std::optional<int64_t> step_of(const std::string& name) {
  int64_t step = 0;
  if (!name.starts_with(kStep)) return {};
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + kStep.size(), end, step);
  if (error != std::errc() || stop != end || name != fmt::format("{}{}", kStep, step)) return {};
  return step;
}

/// First the manifest, without which the rest is nothing.
void remove_step(const fs::path& folder) {
  fs::remove(folder / kManifest);
  fs::remove_all(folder);
}

/// The manifest without its own digest. Throws Error (bad_input) if that does not fit.
json read_manifest(const fs::path& path) {
  json manifest = parse_json(read_text_file(path, kMaxManifestBytes), path.string(), 3);
  const json digest = manifest.is_object() ? manifest.value("sha256", json()) : json();
  if (!digest.is_string()) throw bad_input("{}: no object with a text 'sha256'", path.string());
  manifest.erase("sha256");
  if (const std::string found = digest_bytes(manifest.dump()); digest != found)
    throw bad_input("{}: its own SHA-256 is {}, where it says {:.80}", path.string(), found, digest.dump());
  return manifest;
}

/// A member of the manifest. Its digest fits, so what is malformed was made that way.
template <class T>
T member(const json& object, const char* key, const fs::path& path) {
  try {
    return object.at(key).get<T>();
  } catch (const json::exception& e) {
    throw bad_input("{}: '{}': {:.200}", path.string(), key, e.what());
  }
}

void check_part(const fs::path& path, int64_t bytes, const std::string& sha256, bool digest_too) {
  std::error_code error;
  const auto found = static_cast<int64_t>(fs::file_size(path, error));
  if (error) throw bad_input("{}: {}, and the manifest names it", path.string(), error.message());
  if (found != bytes) throw bad_input("{}: {} bytes, and the manifest says {}", path.string(), found, bytes);
  if (!digest_too) return;
  if (const std::string digest = digest_file(path); digest != sha256)
    throw bad_input("{}: its SHA-256 is {}, and the manifest says {:.80}", path.string(), digest, sha256);
}

/// Copies in memory of the host.
struct Snapshot {
  Arena memory;
  std::vector<NamedTensor> tensors;

  Snapshot(std::span<const NamedTensor> from, int64_t bytes, Context& ctx) : memory(bytes) {
    for (const NamedTensor& t : from) {
      tensors.push_back({t.name, memory.tensor(t.tensor.rows, t.tensor.cols, t.tensor.dtype)});
      transfer(tensors.back().tensor, t.tensor, ctx);
    }
  }
  static int64_t bytes_of(std::span<const NamedTensor> tensors) {
    Arena planner = Arena::planner();
    for (const NamedTensor& t : tensors) planner.tensor(t.tensor.rows, t.tensor.cols, t.tensor.dtype);
    return planner.used_bytes();
  }
};

}  // namespace

void Checkpoint::read(std::span<const NamedTensor> tensors, Context& ctx) const {
  for (const NamedTensor& t : tensors) {
    const Tensor from = state.at(t.name, t.tensor.rows, t.tensor.cols);
    if (from.dtype != t.tensor.dtype)
      throw bad_input("{}: tensor '{}' is {} where {} is expected", state.name, t.name, name_of(from.dtype),
                      name_of(t.tensor.dtype));
    transfer(t.tensor, from, ctx);
  }
}

CheckpointRanks ranks_of(const Communicator& world) {
  if (world.size() == 1) return {};
  return {world.rank(), world.size(), [group = world](const std::string& mine) mutable { return group.gather(mine); }};
}

CheckpointFolder::CheckpointFolder(const fs::path& path, const CheckpointOptions& options)
    : path_(path), options_(options) {
  const CheckpointRanks& r = options_.ranks;
  CHECK(r.ranks > 0 && r.rank >= 0 && r.rank < r.ranks, "rank {} of {}", r.rank, r.ranks);
  CHECK(r.ranks == 1 || r.exchange, "{} ranks need a way to exchange texts", r.ranks);
}

std::vector<std::string> CheckpointFolder::exchange(const std::string& mine) const {
  if (!options_.ranks.exchange) return {mine};
  std::vector<std::string> texts = options_.ranks.exchange(mine);
  CHECK(std::ssize(texts) == options_.ranks.ranks, "{} texts of {} ranks", texts.size(), options_.ranks.ranks);
  return texts;
}

/// What rank 0 does for all: its answer on every rank, or on every rank what went wrong.
std::string CheckpointFolder::from_rank_0(const std::function<std::string()>& work) const {
  constexpr char kAnswer = '=', kFailure = '!';
  std::string text;
  if (options_.ranks.rank == 0) try {
      text = kAnswer + work();
    } catch (const std::exception& e) {
      text = kFailure + std::string(e.what());
    }
  text = exchange(text).front();
  CHECK(!text.empty(), "rank 0 exchanged nothing");
  if (text[0] != kAnswer) throw Error(text.substr(1));
  return text.substr(1);
}

fs::path CheckpointFolder::step_path(int64_t steps_done) const {
  return path_ / fmt::format("{}{}", kStep, steps_done);
}

/// Of all checkpoints that have a manifest, ascending.
std::vector<int64_t> CheckpointFolder::steps() const {
  std::vector<int64_t> found;
  std::error_code absent;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, absent))
    if (const auto step = step_of(entry.path().filename().string()); step && fs::exists(entry.path() / kManifest))
      found.push_back(*step);
  std::sort(found.begin(), found.end());
  return found;
}

void CheckpointFolder::remove_leftovers() const {
  std::vector<fs::path> leftovers;
  std::error_code absent;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, absent)) {
    if (!step_of(entry.path().filename().string())) continue;
    if (!fs::exists(entry.path() / kManifest)) {
      leftovers.push_back(entry.path());
      continue;
    }
    for (const fs::directory_entry& file : fs::directory_iterator(entry.path()))
      if (file.path().filename() != kManifest && file.path().extension() == kRecordEnd)
        leftovers.push_back(file.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path);
}

/// Verifies every part's size, and the digests of those that are this rank's share of the work.
Checkpoint CheckpointFolder::open(int64_t steps_done) const {
  const fs::path folder = step_path(steps_done), path = folder / kManifest;
  const json manifest = read_manifest(path);
  if (const auto step = member<int64_t>(manifest, "steps_done", path); step != steps_done)
    throw bad_input("{}: is of step {}", path.string(), step);
  Checkpoint checkpoint{.steps_done = steps_done, .state = {}, .passed_over = {}};
  checkpoint.state.name = folder.string();
  checkpoint.state.metadata = member<std::map<std::string, std::string>>(manifest, "metadata", path);
  const auto parts = member<std::vector<json>>(manifest, "parts", path);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (const auto file = member<std::string>(parts[i], "file", path); file != part_name(i))
      throw bad_input("{}: part {} is '{:.100}'; allowed: {}", path.string(), i, file, part_name(i));
    const bool is_mine = i % static_cast<size_t>(options_.ranks.ranks) == static_cast<size_t>(options_.ranks.rank);
    check_part(folder / part_name(i), member<int64_t>(parts[i], "bytes", path),
               member<std::string>(parts[i], "sha256", path), is_mine);
    SafeTensors part = read_safetensors(folder / part_name(i));
    for (const auto& [name, view] : part.tensors)
      if (!checkpoint.state.tensors.emplace(name, view).second)
        throw bad_input("{}: tensor '{}' is in an earlier part, too", part.name, name);
    std::move(part.memory.begin(), part.memory.end(), std::back_inserter(checkpoint.state.memory));
  }
  return checkpoint;
}

/// The first problem that any rank finds; none: it is whole. Verifying may take long: ranks tell each other meanwhile
/// that they live.
std::string CheckpointFolder::open_together(Checkpoint& checkpoint, int64_t steps_done) const {
  std::future<Checkpoint> opened = std::async(std::launch::async, [&] { return open(steps_done); });
  const auto all_ready = [&] {
    const bool is_ready = opened.wait_for(kSignOfLife) == std::future_status::ready;
    const std::vector<std::string> states = exchange(is_ready ? "ready" : "");
    return std::none_of(states.begin(), states.end(), [](const std::string& state) { return state.empty(); });
  };
  while (!all_ready()) continue;
  std::string mine;
  try {
    checkpoint = opened.get();
  } catch (const std::exception& e) {
    mine = e.what();
  }
  for (std::string& problem : exchange(mine))
    if (!problem.empty()) return std::move(problem);
  return "";
}

std::optional<Checkpoint> CheckpointFolder::newest() {
  // One rank's list: a shared file system may show others what was there a minute ago.
  const std::string list = from_rank_0([&] {
    remove_leftovers();
    return json(steps()).dump();
  });
  std::vector<std::string> damaged;
  const auto found = json::parse(list).get<std::vector<int64_t>>();
  for (auto step = found.rbegin(); step != found.rend(); ++step) {
    Checkpoint checkpoint;
    if (const std::string problem = open_together(checkpoint, *step); !problem.empty()) {
      damaged.push_back(problem);
      continue;
    }
    checkpoint.passed_over = std::move(damaged);
    whole_ = {*step};
    return checkpoint;
  }
  if (damaged.empty()) return {};
  std::string all;
  for (const std::string& problem : damaged) all += "\n  " + problem;
  throw bad_input("{}: of {} checkpoints none is whole; bring the files back, or delete this folder to begin again:{}",
                  path_.string(), damaged.size(), all);
}

void CheckpointFolder::follow(const Checkpoint& newest) {
  if (fs::path(newest.state.name).parent_path() == path_) whole_ = {newest.steps_done};
}

/// The part at `path`, then its record.
void CheckpointFolder::write_part(const fs::path& path, std::vector<NamedTensor> tensors, Context& ctx) {
  // Larger elements first, so that all are aligned.
  std::stable_sort(tensors.begin(), tensors.end(), [](const NamedTensor& a, const NamedTensor& b) {
    return size_of(a.tensor.dtype) > size_of(b.tensor.dtype);
  });
  create_folder(path.parent_path());
  AtomicFile file(path);
  Sha256 digest;
  int64_t written = 0;
  const auto add = [&](std::string_view bytes) {
    digest.add(bytes);
    file.write(bytes);
    written += std::ssize(bytes);
  };
  add(safetensors_header(tensors));
  for (const NamedTensor& t : tensors) {
    const Tensor rows = t.tensor.contiguous() ? t.tensor.reshape(1, t.tensor.size()) : t.tensor;
    const int64_t piece = kPieceBytes / size_of(rows.dtype);
    for (int64_t r = 0; r < rows.rows; ++r)
      for (int64_t c = 0; c < rows.cols; c += piece) {
        const HostView view(rows.row_range(r, 1).col_range(c, std::min(piece, rows.cols - c)), ctx);
        add({view.as<char>(), static_cast<size_t>(view.tensor().bytes())});
      }
  }
  file.commit();
  const json record{{"file", path.filename().string()}, {"bytes", written}, {"sha256", digest.finish()}};
  write_file_atomically(fs::path(path).replace_extension(kRecordEnd), record.dump());
}

void CheckpointFolder::begin(std::span<const NamedTensor> tensors, Context& ctx) {
  const fs::path folder = step_path(step_), path = folder / part_name(static_cast<size_t>(options_.ranks.rank));
  if (options_.ranks.rank == 0) fs::remove(folder / kManifest);
  fs::remove_all(path);  // all of a damaged checkpoint
  fs::remove(record_path(options_.ranks.rank));
  const int64_t bytes = Snapshot::bytes_of(tensors);
  if (bytes > options_.max_snapshot_bytes) {
    write_part(path, {tensors.begin(), tensors.end()}, ctx);
    std::promise<void> written;
    written.set_value();
    writing_ = written.get_future();
    return;
  }
  auto snapshot = std::make_unique<Snapshot>(tensors, bytes, ctx);
  writing_ = std::async(std::launch::async, [path, copies = std::move(snapshot)]() mutable {
    Context host({.threads = 1, .scratch_bytes = 0});
    const std::unique_ptr<Snapshot> own = std::move(copies);  // goes with the thread, not with its result
    write_part(path, own->tensors, host);
  });
}

void CheckpointFolder::write(int64_t steps_done, std::span<const NamedTensor> tensors,
                             const std::map<std::string, std::string>& metadata, Context& ctx) {
  finish();
  CHECK(whole_.empty() || steps_done > whole_.back(), "a checkpoint of step {} behind that of step {}", steps_done,
        whole_.back());
  step_ = steps_done, metadata_ = metadata;
  is_published_ = options_.ranks.rank != 0;
  try {
    begin(tensors, ctx);
  } catch (const std::exception&) {  // thrown where those of the thread are
    std::promise<void> failed;
    failed.set_exception(std::current_exception());
    writing_ = failed.get_future();
  }
}

fs::path CheckpointFolder::record_path(int rank) const {
  return step_path(step_) / record_name(static_cast<size_t>(rank));
}

/// Ranks whose part is not on disk, as far as this one sees.
std::vector<int> CheckpointFolder::missing_records() const {
  std::vector<int> missing;
  for (int r = 0; r < options_.ranks.ranks; ++r)
    if (!fs::exists(record_path(r))) missing.push_back(r);
  return missing;
}

/// The manifest, from the records of all parts; then what it makes superfluous goes.
void CheckpointFolder::publish() {
  is_published_ = true;  // whatever comes: a failure is told once
  json manifest{{"steps_done", step_}, {"metadata", metadata_}, {"parts", json::array()}};
  for (int r = 0; r < options_.ranks.ranks; ++r)
    manifest["parts"].push_back(
        parse_json(read_text_file(record_path(r), kMaxManifestBytes), record_path(r).string(), 2));
  const auto text_of = [&](int indent) { return manifest.dump(indent, ' ', false, json::error_handler_t::replace); };
  manifest["sha256"] = digest_bytes(text_of(-1));
  write_file_atomically(step_path(step_) / kManifest, text_of(2) + "\n");
  whole_.push_back(step_);
  if (whole_.size() > kKept) whole_.erase(whole_.begin());
  for (int r = 0; r < options_.ranks.ranks; ++r) fs::remove(record_path(r));
  remove_others();
}

void CheckpointFolder::remove_others() const {
  for (const int64_t step : steps())
    if (std::find(whole_.begin(), whole_.end(), step) == whole_.end()) remove_step(step_path(step));
}

/// Waits for this rank's part.
void CheckpointFolder::join() try {
  if (writing_.valid()) writing_.get();
} catch (const std::exception& e) {
  is_published_ = true;  // a failure is told once
  throw Error(e.what());
}

bool CheckpointFolder::poll() {
  if (writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return false;
  join();
  if (is_published_ || !missing_records().empty()) return is_published_;
  publish();
  return true;
}

void CheckpointFolder::finish() {
  join();
  if (is_published_) return;
  const auto start = std::chrono::steady_clock::now();
  while (true) {
    const std::vector<int> missing = missing_records();
    if (missing.empty()) break;
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
    if (waited.count() > options_.patience_s)
      throw Error(fmt::format("{}: no part of rank {} after {:.0f} s", step_path(step_).string(), missing.front(),
                              waited.count()));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  publish();
}

}  // namespace tangram
