#pragma once
#include <filesystem>
#include <span>
#include <string_view>

#include "kernels/context.h"
#include "nas/config.h"
#include "nas/progress.h"

// What a run on a GPU does before its first stage.

namespace tangram {

/// Throws Error (infeasible), with the plan's figures and what to change, if a stage among `stages` needs more memory
/// than the GPU has free: pretrain, distill, score, and uptrain if the students are chosen already.
void check_gpu_memory(const SearchConfig& config, std::span<const std::string_view> stages, int64_t ranks = 1);

/// The same for the students that the search has chosen for `uptrain`, when the stage begins; none: nothing to refuse.
/// What `ctx` has of the GPU's memory is free for the stage.
void check_uptrain_memory(const SearchConfig& config, const Context& ctx);

/// Products take the algorithms of cuBLASLt that `matmuls.txt` in the run's folder names. For a shape that it has not,
/// one is chosen by measuring when the shape is first met, and is in the file before the product is computed: a run
/// that goes on, or is repeated in its folder, gives the same bits. A file of another GPU or version of the library is
/// replaced, which `console` gets to know. Throws Error (bad_input) if the file is damaged.
void keep_matmul_choices(const std::filesystem::path& run_dir, Context& ctx, Console& console);

}  // namespace tangram
