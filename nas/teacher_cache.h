#pragma once
#include <filesystem>

#include "nas/config.h"

namespace tangram {

/// Teachers that Tangram has trained, for runs that want the same: a folder each in `$TANGRAM_CACHE`, else in
/// `$XDG_CACHE_HOME/tangram` or `~/.cache/tangram`, called by the digest of all that its bytes depend on: teacher,
/// data, seed and threads of the config, and the version.
class TeacherCache {
 public:
  TeacherCache(const SearchConfig& config, int threads);

  const std::filesystem::path& folder() const { return folder_; }

  /// Copies teacher and loss curve from the cache; false if it has none, or not as they were kept.
  bool take(const std::filesystem::path& teacher, const std::filesystem::path& curve) const;
  /// Copies them to it; what a kill leaves half-written is never taken.
  void keep(const std::filesystem::path& teacher, const std::filesystem::path& curve) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace tangram
