#include "nas/begun_students.h"

#include <algorithm>
#include <sstream>

#include "nas/ranks.h"
#include "nas/training_loop.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kFolder = "checkpoint";

/// One rank's list: a shared file system may show others what was there a minute ago.
std::vector<fs::path> folders_in(const fs::path& work, Communicator& world) {
  const std::string list = answer_of_leader(world, [&] {
    std::vector<std::string> names;
    std::error_code absent;
    for (const fs::directory_entry& entry : fs::directory_iterator(work, absent))
      if (const std::string name = entry.path().filename(); entry.is_directory() && name.starts_with(kFolder))
        names.push_back(name);
    std::sort(names.begin(), names.end());
    return fmt::format("{}", fmt::join(names, "\n"));
  });
  std::vector<fs::path> folders;
  std::istringstream lines(list);
  for (std::string name; std::getline(lines, name);) folders.push_back(work / name);
  return folders;
}

std::vector<size_t> places_in(const Checkpoint& checkpoint, const std::vector<std::string>& columns) {
  std::vector<size_t> places;
  for (size_t i = 0; i < columns.size(); ++i)
    if (checkpoint.state.tensors.count(std::string(kCurvePrefix) + columns[i])) places.push_back(i);
  return places;
}

}  // namespace

std::vector<BegunStudents> begun_students(const fs::path& work, const std::vector<std::string>& columns,
                                          Communicator& world) {
  std::vector<BegunStudents> all;
  for (const fs::path& folder : folders_in(work, world))
    if (std::optional<Checkpoint> newest = CheckpointFolder(folder, {.ranks = ranks_of(world)}).newest())
      all.push_back({folder, *newest, places_in(*newest, columns)});
  std::vector<int64_t> steps(columns.size(), 0);
  for (const BegunStudents& begun : all)
    for (const size_t place : begun.places) steps[place] = std::max(steps[place], begun.checkpoint.steps_done);
  for (BegunStudents& begun : all)
    std::erase_if(begun.places, [&](size_t place) { return begun.checkpoint.steps_done < steps[place]; });
  answer_of_leader(world, [&] {
    for (const BegunStudents& begun : all)
      if (begun.places.empty()) fs::remove_all(begun.folder);
    return "";
  });
  std::erase_if(all, [](const BegunStudents& begun) { return begun.places.empty(); });
  return all;
}

fs::path new_checkpoint_folder(const fs::path& work, const std::vector<fs::path>& taken) {
  for (int64_t n = 0;; ++n) {
    const fs::path folder = work / (n == 0 ? std::string(kFolder) : fmt::format("{}-{}", kFolder, n));
    if (std::find(taken.begin(), taken.end(), folder) == taken.end()) return folder;
  }
}

}  // namespace tangram
