#include "nas/teacher_cache.h"

#include <unistd.h>

#include <cstdlib>

#include "blocks/file.h"
#include "nas/digest.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr const char* kCurve = "pretrain.csv";
constexpr const char* kDigest = "digest";

fs::path cache_root() {
  for (const auto& [variable, below] :
       {std::pair("TANGRAM_CACHE", ""), {"XDG_CACHE_HOME", "tangram"}, {"HOME", ".cache/tangram"}})
    if (const char* value = std::getenv(variable); value && *value) return fs::path(value) / below;
  return fs::temp_directory_path() / "tangram-cache";
}

}  // namespace

TeacherCache::TeacherCache(const SearchConfig& config, int threads) {
  Digest digest;
  const std::map<std::string, std::string> sections = config_sections(config);
  for (const char* key : {"teacher", "data", "seed"}) digest.add(sections.at(key));
  digest.add(fmt::format("{} {}", threads, TANGRAM_VERSION));
  folder_ = cache_root() / "teachers" / digest.text();
}

bool TeacherCache::take(const fs::path& teacher, const fs::path& curve) const {
  if (!fs::exists(folder_ / kDigest)) return false;
  if (read_text_file(folder_ / kDigest, 64) != fingerprint(folder_ / "teacher")) return false;
  fs::remove_all(teacher);
  fs::copy(folder_ / "teacher", teacher, fs::copy_options::recursive);
  fs::copy_file(folder_ / kCurve, curve, fs::copy_options::overwrite_existing);
  return true;
}

void TeacherCache::keep(const fs::path& teacher, const fs::path& curve) const {
  const fs::path partial = folder_.string() + fmt::format(".partial-{}", getpid());
  fs::remove_all(partial);
  fs::create_directories(partial);
  fs::copy(teacher, partial / "teacher", fs::copy_options::recursive);
  fs::copy_file(curve, partial / kCurve);
  write_file_atomically(partial / kDigest, fingerprint(partial / "teacher"));
  fs::remove_all(folder_);
  fs::rename(partial, folder_);
}

}  // namespace tangram
