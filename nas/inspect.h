#pragma once
#include <filesystem>

#include "nas/model_verbs.h"

namespace tangram {

// What `tangram inspect` prints of each kind of path.
void inspect_model(const std::filesystem::path& folder, const VerbInput& in);
/// `metric` is that of the tables; empty: kl_divergence, or the first if the table has none of that name.
void inspect_scores(const std::filesystem::path& file, const std::string& metric, const VerbInput& in);
void inspect_run(const std::filesystem::path& run_dir, const VerbInput& in);

}  // namespace tangram
