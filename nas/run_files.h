#pragma once
#include <filesystem>
#include <vector>

#include "blocks/model.h"
#include "distill/dataset.h"
#include "nas/config.h"

namespace tangram {

// Where the stages of a run keep what others read. All below the run directory.
std::filesystem::path teacher_path(const SearchConfig& config, const std::filesystem::path& run_dir);
std::filesystem::path tokens_path(const std::filesystem::path& run_dir, bool validation);
std::filesystem::path statistics_path(const std::filesystem::path& run_dir, int64_t layer);
std::filesystem::path library_dir(const std::filesystem::path& run_dir);
std::filesystem::path scores_path(const std::filesystem::path& run_dir);
std::filesystem::path architecture_path(const std::filesystem::path& run_dir, const std::string& name);
std::filesystem::path student_path(const std::filesystem::path& run_dir, const std::string& name);
std::filesystem::path export_path(const std::filesystem::path& run_dir, const std::string& name);

/// The teacher of a run, mapped from its folder, in the dtype that the run computes in.
Model load_teacher(const SearchConfig& config, const std::filesystem::path& run_dir);

/// Every replacement of a search space on every layer of the teacher, the teacher's own subblocks first.
std::vector<Replacement> all_replacements(const SearchSpace& space, const ModelConfig& teacher);

}  // namespace tangram
