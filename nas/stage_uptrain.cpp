#include <numeric>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "distill/placement.h"
#include "kernels/transfer.h"
#include "nas/architecture_file.h"
#include "nas/gpu_run.h"
#include "nas/interruption.h"
#include "nas/rank_speeds.h"
#include "nas/ranks.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/training_loop.h"
#include "nas/uptrain_grid.h"

namespace tangram {
namespace {

constexpr int kWeightTag = 300;

/// Of a tensor in the host's memory what one rank has reaches the leader.
class ToLeader {
 public:
  ToLeader(Communicator& world, Context& ctx) : world_(world), ctx_(ctx) {}

  void operator()(Tensor to, Tensor from, int owner) {
    if (owner == 0) {
      if (leads(world_)) transfer(to, from, ctx_);
    } else if (leads(world_)) {
      world_.receive(to, owner, kWeightTag).wait();
    } else if (world_.rank() == owner) {
      const HostView host(from, ctx_);
      world_.send(host.tensor(), 0, kWeightTag).wait();
    }
  }

 private:
  Communicator& world_;
  Context& ctx_;
};

/// Heals one student; its checkpoints are its own, so a student that is finished is not begun again.
class StudentTraining {
 public:
  StudentTraining(const StageInput& in, const Model& teacher, const TokenDataset& tokens, std::span<const double> rates,
                  const ChosenArchitecture& chosen)
      : in_(in),
        training_(in.config.uptrain.training),
        teacher_(teacher),
        tokens_(tokens),
        rates_(rates),
        chosen_(chosen) {
    options_ = trainer_options<GkdOptions>(training_);
    options_.shards = training_.shards;
    options_.loss = in.config.uptrain.loss;
    options_.teacher_layers = last_layers(chosen);
  }

  void run() {
    const std::filesystem::path folder = student_path(in_.run_dir, chosen_.name), work = in_.work / chosen_.name;
    const std::filesystem::path finished = work / "finished";
    const bool is_done = answer_of_leader(in_.world, [&] {
                           return std::string(exists(folder) && exists(finished) ? "done" : "to do");
                         }) == "done";
    if (is_done) return;
    const Model assembled = assemble(teacher_, replacements_of(chosen_, teacher_.config), library_dir(in_.run_dir));
    const Batch batch = blank_batch(options_.batch_tokens, in_.config.data.sequence_length);
    const GkdCosts costs =
        gkd_costs(assembled.architecture(), teacher_.config, training_.dtype, options_, batch, in_.ctx.device);
    const UptrainGrid grid =
        uptrain_grid(costs, options_.micro_batches, options_.shards, in_.world.size(), relative_speeds(rates_));
    if (in_.world.size() > 1) in_.console.say("uptrain: {}", description(grid));
    // Ranks that the grid has no work for wait, and hear that the others are alive.
    SharedWork shared(in_.world);
    const bool takes_part = in_.world.rank() < grid.shape().ranks();
    Communicator world = in_.world.split(takes_part ? 0 : 1, in_.world.rank());
    std::optional<Error> early;  // those that wait have to hear of it, too
    try {
      if (takes_part) train(assembled, grid, costs.all() * double(options_.micro_batches), world);
    } catch (const Error& e) {
      if (e.failure != kInterrupted) throw;
      early = e;
    }
    shared.finish();
    answer_of_leader(in_.world, [&] {
      if (early) throw *early;
      write_file_atomically(finished, "");
      remove_all(work / "checkpoint");
      return "";
    });
  }

 private:
  std::string description(const UptrainGrid& grid) const {
    std::string cuts;
    for (const GkdStage& stage : grid.stages) cuts += fmt::format(" {}-{}", stage.begin, stage.end - 1);
    const int64_t idle = in_.world.size() - grid.shape().ranks();
    return fmt::format("{} stages x {} replicas, blocks{}; a rank works {:.0f} % of the slowest one's time{}",
                       grid.stages.size(), grid.replicas, cuts, 100 * balance(grid.stages, grid.speeds),
                       idle == 0 ? ""
                                 : fmt::format("; {} ranks have no work, for {} blocks in {} shards", idle,
                                               chosen_.blocks.size(), options_.shards));
  }

  void train(const Model& assembled, const UptrainGrid& grid, double flops_per_step, Communicator& world) {
    Communicator replicas = world.split(int(grid.shape().stage_of(world.rank())), world.rank());
    if (in_.ctx.device == Device::cuda && world.size() > 1) world.attach(in_.ctx);
    const GkdPart part = part_of(grid, world, replicas);
    Model student = copy_part(assembled, part.begin, part.end, training_.dtype, in_.ctx);
    const auto layer_before = [&](int64_t block) {
      return block == 0 ? 0 : options_.teacher_layers[size_t(block - 1)] + 1;
    };
    const Model teacher = in_.ctx.device == Device::cpu ? teacher_
                                                        : copy_part(teacher_, layer_before(part.begin),
                                                                    layer_before(part.end), teacher_.dtype, in_.ctx);
    GkdTrainer trainer(student, &teacher, options_, part, in_.ctx);
    LossCurve curve{.columns = {"cosine", "kl", "cross_entropy", "gradient_norm"}, .values = {}};
    run_training(
        {.label = "uptrain " + chosen_.name,
         .steps = steps_of(training_),
         .tokens_per_step = training_.batch_tokens,
         .checkpoint_seconds = in_.config.checkpoint_seconds,
         .checkpoints = in_.work / chosen_.name / "checkpoint",
         .state = [&] { return trainer.state(); },
         .resume = [&](int64_t steps_done) { trainer.resume(steps_done); },
         .step =
             [&](int64_t step, bool) {
               // Other sequences first than distillation saw first.
               const GkdLosses l = trainer.step(batches_of_step(tokens_, training_, in_.config.seed + 1, step,
                                                                part.replicas.index, part.replicas.count));
               return std::vector<float>{float(l.cosine), float(l.kl), float(l.cross_entropy), float(l.gradient_norm)};
             },
         .note = [](std::span<const float> row) { return fmt::format("KL {:.4f}", row[1]); },
         .flops_per_step = flops_per_step,
         .peak_flops = std::accumulate(rates_.begin(), rates_.begin() + world.size(), 0.0),
         .world = &world},
        curve, in_.console, in_.ctx);
    save(student, grid, world);
    if (leads(world)) write_curve(student_curve_path(in_.run_dir, chosen_.name), curve);
  }

  // The leader gets each stage's weights from the first of its replicas.
  void save(const Model& student, const UptrainGrid& grid, Communicator& world) {
    const std::filesystem::path folder = student_path(in_.run_dir, chosen_.name);
    const SaveOptions options{.tokenizer_from = teacher_path(in_.config, in_.run_dir)};
    Model whole;
    if (leads(world)) whole = make_model(student.config, student.architecture(), training_.dtype);
    ToLeader to_leader(world, in_.ctx);
    for (size_t s = 0; s < grid.stages.size(); ++s) {
      const GkdStage& stage = grid.stages[s];
      const std::vector<NamedTensor> from = part_tensors(student, stage.begin, stage.end);
      const std::vector<NamedTensor> to =
          leads(world) ? part_tensors(whole, stage.begin, stage.end) : std::vector<NamedTensor>(from.size());
      for (size_t i = 0; i < from.size(); ++i)
        to_leader(to[i].tensor, from[i].tensor, grid.shape().rank_of(int64_t(s), 0));
    }
    if (leads(world)) save_model(folder, whole, options);
  }

  const StageInput& in_;
  const TrainingConfig& training_;
  const Model& teacher_;
  const TokenDataset& tokens_;
  const std::span<const double> rates_;  // of the ranks
  const ChosenArchitecture& chosen_;
  GkdOptions options_;
};

}  // namespace

std::vector<std::filesystem::path> run_uptrain(const StageInput& in) {
  if (in.ctx.device == Device::cuda && in.world.size() == 1) check_uptrain_memory(in.config, in.ctx);
  const Model teacher = load_teacher(in.config, in.run_dir, in.config.uptrain.training.dtype);
  const TokenDataset tokens = load_tokens(in.config, in.run_dir, /*validation=*/false);
  const std::vector<double> rates = product_rates(in.world, in.config.uptrain.training.dtype, in.ctx);
  const std::filesystem::path architectures = architecture_path(in.run_dir, "any").parent_path();
  for (const ChosenArchitecture& chosen : read_architectures(architectures))
    if (is_healed(chosen)) StudentTraining(in, teacher, tokens, rates, chosen).run();
  return {in.run_dir / "students"};
}

}  // namespace tangram
