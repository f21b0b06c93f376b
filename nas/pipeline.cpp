#include <algorithm>
#include <chrono>

#include "blocks/file.h"
#include "nas/digest.h"
#include "nas/gpu_run.h"
#include "nas/stages.h"
#include "nas/units.h"

namespace tangram {
namespace {

using Sections = std::map<std::string, std::string>;

/// The stages that the config has, none reading from one that it has not.
std::vector<Stage> stages_of(std::span<const Stage> all, const SearchConfig& config) {
  std::vector<Stage> stages;
  std::vector<std::string_view> absent;
  for (Stage stage : all) {
    if (stage.is_part_of && !stage.is_part_of(config)) {
      absent.push_back(stage.name);
      continue;
    }
    std::erase_if(stage.after, [&](std::string_view earlier) {
      return std::find(absent.begin(), absent.end(), earlier) != absent.end();
    });
    stages.push_back(std::move(stage));
  }
  return stages;
}

/// Digest of all that the stage reads.
std::string input_digest(const Stage& stage, const Sections& sections, const RunDirectory& run) {
  Digest digest;
  for (const std::string_view key : stage.keys)
    if (const auto section = sections.find(std::string(key)); section != sections.end()) digest.add(section->second);
  for (const std::string_view earlier : stage.after) digest.add(run.output_digest(earlier));
  return digest.text();
}

/// Throws Error (bad_input) naming the first of the stages that `stage` reads from, directly or not, that has to run.
void check_predecessors(const Stage& stage, std::string_view asked, std::span<const Stage> stages,
                        const Sections& sections, const RunDirectory& run) {
  for (const Stage& earlier : stages) {
    if (std::find(stage.after.begin(), stage.after.end(), earlier.name) == stage.after.end()) continue;
    check_predecessors(earlier, asked, stages, sections, run);
    const std::string reason = run.reason_to_run(earlier.name, input_digest(earlier, sections, run));
    if (!reason.empty())
      throw bad_input("{}: {} reads what {} makes, and {} is to run first ({}): tangram {} CONFIG.yaml",
                      run.root.string(), asked, earlier.name, earlier.name, reason, earlier.name);
  }
}

/// Of the stages that are asked for those that are not complete, as far as can be seen before the first of them runs.
std::vector<std::string_view> names_to_run(std::span<const Stage> stages, const SearchConfig& config,
                                           const PipelineOptions& options) {
  std::vector<std::string_view> names;
  for (const Stage& stage : stages)
    if ((options.only.empty() || stage.name == options.only) &&
        (options.again || !reason_incomplete(config.run_dir, stage.name).empty()))
      names.push_back(stage.name);
  return names;
}

}  // namespace

std::vector<StageResult> run_pipeline(std::span<const Stage> all, const SearchConfig& config,
                                      const PipelineOptions& options, Context& ctx, Console& console) {
  const std::vector<Stage> stages = stages_of(all, config);
  check_inputs(config);
  if (ctx.device == Device::cuda) check_gpu_memory(config, names_to_run(stages, config, options));
  const Sections sections = config_sections(config);
  Digest teacher;
  teacher.add(sections.at("teacher"));
  RunDirectory run(config.run_dir, teacher.text());
  write_file_atomically(run.root / "config.yaml", write_config(config, run.root));
  if (ctx.device == Device::cuda) keep_matmul_choices(run.root, ctx, console);

  std::vector<StageResult> results;
  for (const Stage& stage : stages) {
    if (!options.only.empty() && stage.name != options.only) continue;
    check_predecessors(stage, stage.name, stages, sections, run);
    const std::string inputs = input_digest(stage, sections, run);
    const std::string reason = run.reason_to_run(stage.name, inputs);
    if (reason.empty() && !options.again) {
      console.say("{}: complete", stage.name);
      results.push_back({stage.name, true, 0});
      continue;
    }
    console.say("{}: {}", stage.name, reason.empty() ? "again, as asked" : reason);
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::filesystem::path> outputs =
        stage.run({config, run.root, run.begin(stage.name, inputs), ctx, console, options.wave, reason.empty()});
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (!outputs.empty()) run.complete(stage.name, inputs, outputs);
    console.say("{}: {} in {}", stage.name, outputs.empty() ? "these layers done" : "done",
                format_seconds(took.count()));
    results.push_back({stage.name, false, took.count()});
  }
  return results;
}

}  // namespace tangram
