#include <algorithm>
#include <chrono>

#include "blocks/file.h"
#include "nas/digest.h"
#include "nas/gpu_run.h"
#include "nas/interruption.h"
#include "nas/ranks.h"
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

/// One run of the pipeline as the leader sees it, and the other processes follow it.
class PipelineRun {
 public:
  PipelineRun(std::span<const Stage> stages, const SearchConfig& config, const PipelineOptions& options, Context& ctx,
              Console& console, Communicator& world)
      : stages_(stages),
        sections_(config_sections(config)),
        config_(config),
        options_(options),
        ctx_(ctx),
        console_(console),
        world_(world) {
    answer_of_leader(world_, [&] {
      Digest teacher;
      teacher.add(sections_.at("teacher"));
      run_.emplace(config.run_dir, teacher.text());
      write_file_atomically(config.run_dir / "config.yaml", write_config(config, config.run_dir));
      return "";
    });
  }

  StageResult run(const Stage& stage) {
    std::string inputs, reason;
    constexpr char kFirstTime = '0', kAgain = '1';  // then the work folder
    const std::string answer = answer_of_leader(world_, [&]() -> std::string {
      check_predecessors(stage, stage.name, stages_, sections_, *run_);
      inputs = input_digest(stage, sections_, *run_);
      reason = run_->reason_to_run(stage.name, inputs);
      if (reason.empty() && !options_.again) return "";
      stop_if_interrupted(fmt::format("before {}", stage.name));
      console_.say("{}: {}", stage.name, reason.empty() ? "again, as asked" : reason);
      return (reason.empty() ? kAgain : kFirstTime) + run_->begin(stage.name, inputs).string();
    });
    if (answer.empty()) {
      console_.say("{}: complete", stage.name);
      return {stage.name, true, 0};
    }
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::filesystem::path> outputs = outputs_of(stage, answer.substr(1), answer[0] == kAgain);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    answer_of_leader(world_, [&] {
      if (!outputs.empty()) run_->complete(stage.name, inputs, outputs);
      return "";
    });
    console_.say("{}: {} in {}", stage.name, outputs.empty() ? "these layers done" : "done",
                 format_seconds(took.count()));
    return {stage.name, false, took.count()};
  }

 private:
  std::vector<std::filesystem::path> outputs_of(const Stage& stage, const std::filesystem::path& work, bool again) {
    const auto run = [&](Communicator& world) {
      return stage.run({config_, config_.run_dir, work, ctx_, console_, world, options_.wave, again});
    };
    if (stage.on_ranks) {
      world_.set_label(std::string(stage.name));
      std::vector<std::filesystem::path> written = run(world_);
      world_.barrier();  // all of it
      return written;
    }
    std::vector<std::filesystem::path> outputs;
    answer_of_leader(world_, [&] {
      Communicator alone;
      outputs = run(alone);
      return "";
    });
    return outputs;
  }

  std::span<const Stage> stages_;
  const Sections sections_;
  const SearchConfig& config_;
  const PipelineOptions& options_;
  Context& ctx_;
  Console& console_;
  Communicator& world_;
  std::optional<RunDirectory> run_;  // the leader's
};

}  // namespace

std::vector<StageResult> run_pipeline(std::span<const Stage> all, const SearchConfig& config,
                                      const PipelineOptions& options, Context& ctx, Console& console,
                                      Communicator& world) {
  const std::vector<Stage> stages = stages_of(all, config);
  check_inputs(config);
  check_same_run(world, config);
  if (ctx.device == Device::cuda) check_gpu_memory(config, names_to_run(stages, config, options), world.size());
  PipelineRun run(stages, config, options, ctx, console, world);
  // Several processes would choose apart; the library's first proposal is the same for all.
  if (ctx.device == Device::cuda && world.size() == 1) keep_matmul_choices(config.run_dir, ctx, console);
  std::vector<StageResult> results;
  for (const Stage& stage : stages)
    if (options.only.empty() || stage.name == options.only) results.push_back(run.run(stage));
  return results;
}

}  // namespace tangram
