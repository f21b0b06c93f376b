#pragma once
#include <filesystem>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/context.h"
#include "nas/config.h"
#include "nas/progress.h"
#include "nas/run_directory.h"

namespace tangram {

/// Layers from `begin` up to, but not including, `end`.
struct LayerRange {
  int64_t begin = 0, end = 0;
};

/// What a stage works with.
struct StageInput {
  const SearchConfig& config;
  const std::filesystem::path& run_dir;
  std::filesystem::path work;  ///< its own folder: checkpoints here outlive a kill, and go when the stage is complete
  Context& ctx;
  Console& console;
  Communicator& world;                  ///< the processes that run this stage
  std::optional<LayerRange> wave = {};  ///< the only layers to work on now
  bool again = false;                   ///< it was complete, and is asked for again
};

/// One step of the pipeline. It reads keys of the config and what earlier stages wrote, and nothing else: it runs again
/// exactly when one of those has changed.
struct Stage {
  std::string_view name, summary;
  std::vector<std::string_view> keys;   ///< of the config (`seed`, `distill.dtype`) that its result depends on
  std::vector<std::string_view> after;  ///< the stages whose files it reads
  /// Does the work, from the last checkpoint in `work` if there is one, and returns the files and folders it wrote
  /// below `run_dir`; none if it is not complete, since it worked on some layers only.
  std::vector<std::filesystem::path> (*run)(const StageInput&);
  /// Whether the config has such a stage at all; null: always.
  bool (*is_part_of)(const SearchConfig&) = nullptr;
  bool on_ranks = false;  ///< several processes share it; else the leader does it while the others wait
};

/// The pipeline in order; every stage comes behind those it reads from.
std::span<const Stage> all_stages();

/// Tokens that are scored at once, in whole sequences.
inline constexpr int64_t kScoringTokens = 4096;

/// What became of a stage.
struct StageResult {
  std::string_view name;
  bool skipped;    ///< it was complete
  double seconds;  ///< that it took, if not
};

struct PipelineOptions {
  std::string_view only;  ///< one stage, whose predecessors have to be complete; empty: all
  bool again = false;     ///< run what is complete, too
  std::optional<LayerRange> wave = {};
};

/// Runs stages of `stages` in a run directory that belongs to the config's teacher, skipping what is complete. All
/// processes of `world` call it.
std::vector<StageResult> run_pipeline(std::span<const Stage> stages, const SearchConfig& config,
                                      const PipelineOptions& options, Context& ctx, Console& console,
                                      Communicator& world);

}  // namespace tangram
