#include "nas/gpu_run.h"

#include <algorithm>

#include "blocks/file.h"
#include "distill/gkd.h"
#include "kernels/cuda_devices.h"
#include "kernels/matmul_cuda.h"
#include "nas/architecture_file.h"
#include "nas/digest.h"
#include "nas/plan.h"
#include "nas/run_files.h"
#include "nas/training_loop.h"
#include "nas/units.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

// Below this a product takes a GPU about as long as its launch does, whatever the algorithm; the library's first
// proposal, which is the same every time, serves those.
constexpr double kLeastFlops = 1e9;

constexpr std::string_view kDigest = "digest ";

std::string with_digest(const std::string& choices) {
  Digest digest;
  digest.add(choices);
  return fmt::format("{}{}{}\n", choices, kDigest, digest.text());
}

/// The file without its last line, the digest of all before it.
std::string read_choices(const fs::path& path) {
  const std::string text = read_text_file(path, int64_t{1} << 26);
  const size_t end = text.rfind(kDigest);
  const std::string choices = text.substr(0, end == std::string::npos ? 0 : end);
  if (end == std::string::npos || with_digest(choices) != text)
    throw bad_input("{}: damaged: its digest is not that of its lines; delete it, and algorithms are chosen anew",
                    path.string());
  return choices;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/// The training of a whole model: `pretrain`, which has no teacher, or `uptrain` of one student.
struct WholeTraining {
  std::string name, key;  ///< for messages: "uptrain of s", and where its settings stand in the config
  ModelConfig teacher;
  Architecture architecture;
  TrainingConfig training;
  GkdLossWeights loss;
  std::vector<int64_t> teacher_layers;  ///< as in GkdOptions
  bool has_teacher;
};

StagePlan plan_training(const WholeTraining& whole, int64_t sequence_length, const PlanMachine& machine) {
  const TrainingConfig& training = whole.training;
  Arena teacher_memory = Arena::planner(machine.device), student_memory = Arena::planner(machine.device);
  const Model teacher = make_model(whole.teacher, teacher_architecture(whole.teacher), training.dtype, teacher_memory);
  ModelConfig shape = whole.teacher;
  shape.num_hidden_layers = std::ssize(whole.architecture);
  Model student = make_model(shape, whole.architecture, training.dtype, student_memory);
  GkdOptions options = trainer_options<GkdOptions>(training);
  options.loss = whole.loss, options.teacher_layers = whole.teacher_layers;
  Context planning({.device = machine.device, .planning = true});
  GkdTrainer trainer(student, whole.has_teacher ? &teacher : nullptr, options, planning);
  trainer.step(std::vector<Batch>(static_cast<size_t>(training.micro_batches),
                                  blank_batch(training.batch_tokens / training.micro_batches, sequence_length)));
  StagePlan stage{.name = whole.name,
                  .detail = {},
                  .memory = {{"parameters", student_memory.used_bytes()},
                             {"gradients, masters and moments", trainer.state_bytes()},
                             {"activations", trainer.work_bytes()},
                             {"workspace of operations", planning.scratch.peak_bytes()}}};
  if (whole.has_teacher) stage.memory.insert(stage.memory.begin(), {"teacher", teacher_memory.used_bytes()});
  if (machine.resident_bytes > 0) stage.memory.push_back({"context and libraries", machine.resident_bytes});
  return stage;
}

/// More micro-batches, which take fewer tokens each, until the training fits.
std::string micro_batch_advice(WholeTraining whole, int64_t sequence_length, const PlanMachine& machine) {
  TrainingConfig& training = whole.training;
  while (training.batch_tokens % (2 * training.micro_batches * sequence_length) == 0) {
    training.micro_batches *= 2;
    const StagePlan stage = plan_training(whole, sequence_length, machine);
    if (stage.fits(machine))
      return fmt::format("{}.micro_batches={} takes {}", whole.key, training.micro_batches,
                         format_bytes(double(total_bytes(stage.memory))));
  }
  return "more micro-batches do not suffice: it needs a smaller model or a larger GPU";
}

void check_training(const WholeTraining& whole, int64_t sequence_length, const PlanMachine& machine) {
  const StagePlan stage = plan_training(whole, sequence_length, machine);
  if (stage.fits(machine)) return;
  std::string parts;
  for (const PlanPart& part : stage.memory)
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", part.name, format_bytes(double(part.bytes)));
  throw Error(
      fmt::format("{} needs {} of memory ({}), and {} has {}; {}", whole.name,
                  format_bytes(double(total_bytes(stage.memory))), parts, machine.name,
                  format_bytes(double(machine.memory_bytes)), micro_batch_advice(whole, sequence_length, machine)),
      Failure::infeasible);
}

void check_pretraining(const SearchConfig& config, const PlanMachine& machine) {
  const ModelConfig shape = teacher_shape(config);
  check_training({.name = "pretrain",
                  .key = "teacher.pretrain",
                  .teacher = shape,
                  .architecture = teacher_architecture(shape),
                  .training = config.teacher.pretrain->training,
                  .loss = {.cosine = 0, .kl = 0, .cross_entropy = 1},
                  .teacher_layers = {},
                  .has_teacher = false},
                 config.data.sequence_length, machine);
}

void check_students(const SearchConfig& config, const PlanMachine& machine) {
  const fs::path architectures = architecture_path(config.run_dir, "any").parent_path();
  if (!fs::exists(architectures)) return;
  const ModelConfig teacher = teacher_shape(config);
  for (const ChosenArchitecture& chosen : read_architectures(architectures))
    if (is_healed(chosen))
      check_training({.name = "uptrain of " + chosen.name,
                      .key = "uptrain",
                      .teacher = teacher,
                      .architecture = blocks_of(chosen, teacher),
                      .training = config.uptrain.training,
                      .loss = config.uptrain.loss,
                      .teacher_layers = last_layers(chosen),
                      .has_teacher = true},
                     config.data.sequence_length, machine);
}

}  // namespace

void check_gpu_memory(const SearchConfig& config, std::span<const std::string_view> stages, int64_t ranks) {
  const auto is_to_run = [&](std::string_view name) {
    return std::find(stages.begin(), stages.end(), name) != stages.end();
  };
  const PlanMachine machine = this_gpu();
  if (is_to_run("pretrain")) check_pretraining(config, machine);
  if (is_to_run("distill") || is_to_run("score")) {
    const RunPlan plan = plan_run(config, teacher_shape(config), machine);
    for (const StagePlan& stage : plan.stages)
      if (stage.name != "uptrain" && is_to_run(stage.name) && (ranks == 1 || stage.name != "distill"))
        check_memory(plan, stage, config, machine);
  }
  // What stands there of an earlier search means nothing to a run that searches again.
  if (is_to_run("uptrain") && !is_to_run("search")) check_students(config, machine);
}

void check_uptrain_memory(const SearchConfig& config, const Context& ctx) {
  PlanMachine machine = this_gpu();
  machine.memory_bytes += ctx.scratch.peak_bytes();
  if (ctx.cuda_matmuls) machine.resident_bytes = 0;  // they are there
  check_students(config, machine);
}

void keep_matmul_choices(const fs::path& run_dir, Context& ctx, Console& console) {
  if constexpr (kCudaBuilt) {
    const fs::path path = run_dir / "matmuls.txt";
    if (fs::exists(path)) {
      const std::string kept = read_choices(path);
      if (!cuda::load_matmul_choices(kept, ctx))
        console.say("{}: of {}, and this is {}; algorithms are chosen anew, and results may differ in their last bits",
                    path.string(), first_line(kept), first_line(cuda::matmul_choices(ctx)));
    }
    cuda::choose_matmuls(
        kLeastFlops, [path, &ctx] { write_file_atomically(path, with_digest(cuda::matmul_choices(ctx))); }, ctx);
  }
}

}  // namespace tangram
