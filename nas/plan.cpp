#include "nas/plan.h"

#include <unistd.h>

#include <algorithm>

#include "blocks/config_json.h"
#include "distill/bld.h"
#include "distill/checkpoint_folder.h"
#include "distill/corpus.h"
#include "distill/depth_first.h"
#include "distill/gkd.h"
#include "kernels/cuda_devices.h"
#include "kernels/device_memory.h"
#include "kernels/peak.h"
#include "nas/run_files.h"
#include "nas/stage_distill.h"
#include "nas/training_loop.h"
#include "puzzle/entry_stream.h"

namespace tangram {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kLibraryBytes = kGiB * 4 / 10;                  // cuBLASLt and cuDNN with their kernels
constexpr int64_t kContextBytes = kGiB * 5 / 10 + kLibraryBytes;  // and the CUDA context
constexpr double kGpuEfficiency = 0.7;  // what the benchmark of a distillation step has to reach

/// Dense rates of large products in bf16 as such GPUs sustain them at their power limit, 80 % of the data sheet's; f32
/// without TF32.
const PlanMachine kGpus[] = {
    {"h200", Device::cuda, 139 * kGiB, kContextBytes, 60e12, 790e12, kGpuEfficiency, {}},
    {"h100-80gb", Device::cuda, 79 * kGiB, kContextBytes, 60e12, 790e12, kGpuEfficiency, {}},
    {"a100-80gb", Device::cuda, 79 * kGiB, kContextBytes, 19e12, 250e12, kGpuEfficiency, {}},
};

/// A step with micro-batches of typical text: sequences of full length.
Batch typical_batch(const SearchConfig& config, const TrainingConfig& training) {
  return blank_batch(training.batch_tokens / training.micro_batches, config.data.sequence_length);
}

int64_t block_bytes(const ModelConfig& config, DType dtype) {
  Arena planner = Arena::planner();
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    make_weights(teacher_choice(s, config), config, dtype, planner);
  return planner.used_bytes();
}

/// A model without weights.
struct PlannedModel {
  Arena memory;
  Model model;

  PlannedModel(const ModelConfig& config, DType dtype, Device device)
      : memory(Arena::planner(device)), model(make_model(config, teacher_architecture(config), dtype, memory)) {}
  int64_t bytes() const { return memory.used_bytes(); }
};

void finish_stage(StagePlan& stage, DType dtype, const PlanMachine& machine) {
  if (machine.resident_bytes > 0) stage.memory.push_back({"context and libraries", machine.resident_bytes});
  stage.seconds = stage.flops / machine.flops(dtype);
}

/// Memory of the host for the largest least-squares solution, and operations of all of one layer: the solution of K
/// unknowns for each of H outputs takes K^3 / 3 + 2 K^2 H operations on two (K, K) and two (K, H) matrices in f64, and
/// its operands are (K, I), (K, K), (H, I) and (K, H) in f32 (ffn_swiglu.cpp, least_squares.cpp).
void add_least_squares(RunPlan& plan, std::span<const Replacement> replacements) {
  const auto H = double(plan.teacher.hidden_size), I = double(plan.teacher.intermediate_size);
  double most = 0;
  for (const Replacement& r : replacements) {
    for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
      if (!r.of(s) || *r.of(s) == teacher_choice(s, plan.teacher)) continue;
      const bool is_linear = r.of(s)->is("linear"), is_ffn = r.of(s)->is("ffn");
      if (!is_linear && !is_ffn) continue;
      const double K = is_linear ? H : double(r.of(s)->size);
      plan.start_flops += K * K * K / 3 + 2 * K * K * H;
      const double operands = is_linear ? H * H : K * I + K * K + H * I + K * H;
      most = std::max(most, 4 * operands + 8 * (2 * K * K + 2 * K * H));
    }
  }
  plan.host.push_back({"least-squares solution at a layer's start", static_cast<int64_t>(most)});
}

int64_t scored_sequences(const SearchConfig& config) {
  return std::max<int64_t>(1, config.score.tokens / config.data.sequence_length);
}

class Planner {
 public:
  Planner(const SearchConfig& config, const ModelConfig& teacher, const PlanMachine& machine)
      : config_(config),
        machine_(machine),
        dtype_(config.distill.training.dtype),
        teacher_(planned_teacher(teacher, dtype_, machine.device)),
        whole_(teacher, dtype_, machine.device) {
    plan_.teacher = teacher;
    plan_.dtype = dtype_;
    for (const NamedTensor& t : named_tensors(whole_.model)) plan_.parameters += t.tensor.size();
  }

  /// Distillation alone.
  StagePlan distill() {
    plan_distill();
    return plan_.stages[0];
  }

  /// Scoring alone, so many sequences at once.
  StagePlan score(int64_t at_once) const {
    const int64_t T = config_.data.sequence_length, sequences = scored_sequences(config_);
    const Batch batch = blank_batch(at_once * T, T);
    Context planning({.device = machine_.device, .planning = true});
    ReplaceOneScorer scorer(whole_.model, at_once * T, planning);
    scorer.start_batch({batch.tokens, batch.targets, batch.lengths, T});
    scorer.teacher_metrics();
    std::vector<Replacement> changed;
    for (const Replacement& r : all_replacements(search_space(config_, teacher_.config), teacher_.config)) {
      Arena memory = Arena::planner(machine_.device);
      LibraryEntry entry{.replacement = r, .attention = {}, .ffn = {}, .memory = {}};
      bool is_teacher = true;
      for (const Subblock s : {Subblock::attention, Subblock::ffn})
        if (r.of(s)) {
          entry.of(s) = make_weights(*r.of(s), teacher_.config, dtype_, memory);
          is_teacher = is_teacher && *r.of(s) == teacher_choice(s, teacher_.config);
        }
      if (is_teacher) continue;
      scorer.score(entry);
      changed.push_back(r);
    }
    const bool on_gpu = machine_.device == Device::cuda;  // elsewhere entries stay in the files' pages
    StagePlan stage{
        .name = "score",
        .detail = fmt::format("{} replacements, {} tokens, {} at once", changed.size(), sequences * T, at_once * T),
        .memory = {{"teacher", whole_.bytes()},
                   {"two replacements", on_gpu ? EntryStream::device_bytes(changed, teacher_.config, dtype_) : 0},
                   {"residual streams", scorer.memory_bytes()},
                   {"workspace of operations", planning.scratch.peak_bytes()}}};
    stage.flops = (planning.matmul_flops + planning.attention_flops) * double(sequences) / double(at_once);
    stage.tokens = double(sequences * T);
    finish_stage(stage, dtype_, machine_);
    return stage;
  }

  RunPlan run() {
    plan_distill();
    plan_.stages.push_back(score(sequences_at_once(config_, teacher_.config, scored_sequences(config_), machine_)));
    plan_uptrain();
    return std::move(plan_);
  }

 private:
  void plan_distill() {
    const TrainingConfig& training = config_.distill.training;
    const bool depth_first = config_.distill.order == DistillOrder::depth_first;
    const DepthFirstRun run{.teacher = teacher_,
                            .replacements = trained_replacements(config_, teacher_.config),
                            .options = bld_options(config_),
                            .steps = steps_of(training),
                            .boundaries = {}};
    const Batch batch = typical_batch(config_, training);
    const int64_t L = teacher_.config.num_hidden_layers;
    // All layers have the same variants, but that no span ends with the first.
    const BldPlan needs =
        depth_first ? DepthFirstLayer::plan(run, L - 1, batch, machine_.device, 0)
                    : BldTrainer::plan(teacher_, run.replacements, run.options,
                                       whole_bld(run.replacements, teacher_.config), batch, machine_.device, 0);
    StagePlan stage{.name = "distill",
                    .detail = fmt::format("{}, {} variants of {} layers, {} steps of {} tokens",
                                          depth_first ? "depth first" : "breadth first", run.replacements.size(), L,
                                          run.steps, training.batch_tokens)};
    if (depth_first)
      stage.memory = {{"teacher's layer", block_bytes(teacher_.config, dtype_)},
                      {"teacher's embedding", whole_.model.embedding.values.bytes()}};
    else
      stage.memory = {{"teacher", whole_.bytes()}};
    stage.memory.push_back({"variants' parameters", needs.weight_bytes});
    if (needs.master_bytes > 0) stage.memory.push_back({"f32 masters", needs.master_bytes});
    stage.memory.push_back({"moments", needs.moment_bytes});
    stage.memory.push_back({"gradients", needs.gradient_bytes});
    // Padding of the state's tensors stands here.
    const int64_t named = needs.weight_bytes + needs.master_bytes + needs.moment_bytes + needs.gradient_bytes;
    stage.memory.push_back({"activations", needs.memory_bytes() - named});
    if (depth_first)
      stage.memory.push_back(
          {"boundary batches", streams_read(run.replacements) * BoundaryStream::device_bytes(run.boundary())});
    stage.memory.push_back({"workspace of operations", needs.scratch_bytes});
    const double layers = depth_first ? double(L) : 1;
    stage.flops = (needs.matmul_flops + needs.attention_flops) * double(run.steps) * layers;
    stage.tokens = double(run.steps * training.batch_tokens);
    finish_stage(stage, dtype_, machine_);
    plan_files(run, needs, stage, depth_first);
    plan_.stages.push_back(std::move(stage));
  }

  // Host memory, disk and traffic of distillation.
  void plan_files(const DepthFirstRun& run, const BldPlan& needs, const StagePlan& stage, bool depth_first) {
    const int64_t L = teacher_.config.num_hidden_layers, statistics = statistics_bytes(teacher_.config);
    const int64_t boundary = run.boundary().bytes();
    const int64_t library = needs.weight_bytes * (depth_first ? L : 1);
    const bool on_gpu = machine_.device == Device::cuda;
    if (depth_first && on_gpu) {
      plan_.host.push_back({"batches on their way to and from the GPU", 2 * run.boundary().batch_bytes()});
      plan_.host.push_back({"a layer of the teacher on its way", block_bytes(teacher_.config, dtype_)});
    }
    plan_.host.push_back({"copy of the state for a checkpoint", needs.checkpoint_bytes()});
    plan_.host.push_back({"statistics of a layer", statistics});
    if (config_.distill.init == Init::least_squares) add_least_squares(plan_, run.replacements);

    if (depth_first)
      plan_.disk.push_back({fmt::format("{} boundaries", boundaries_at_once(run)), boundaries_at_once(run) * boundary});
    plan_.disk.push_back(
        {fmt::format("{} checkpoints", kMostCheckpoints), kMostCheckpoints * needs.checkpoint_bytes()});
    plan_.disk.push_back({"library", library});
    plan_.disk.push_back({"statistics", L * statistics});

    const double at_least = depth_first ? double(L) : 1;  // one checkpoint a layer
    const double checkpoints = std::max(at_least, stage.seconds / config_.checkpoint_seconds);
    const double carried = depth_first ? double(L - 1) * double(boundary) : 0;
    const double read = carried * double(streams_read(run.replacements));
    plan_.bytes_written =
        carried + checkpoints * double(needs.checkpoint_bytes()) + double(library) + double(L * statistics);
    plan_.bytes_read = read + double(whole_.bytes()) + double(L * statistics);
    const double layer_seconds = stage.seconds / double(L);
    if (depth_first && layer_seconds > 0)
      plan_.disk_rate = double(boundary) * double(streams_read(run.replacements)) / layer_seconds;
  }

  void plan_uptrain() {
    const TrainingConfig& training = config_.uptrain.training;
    const PlannedModel teacher(teacher_.config, training.dtype, machine_.device);
    PlannedModel student(teacher_.config, training.dtype, machine_.device);
    GkdOptions options = trainer_options<GkdOptions>(training);
    options.loss = config_.uptrain.loss;
    Context planning({.device = machine_.device, .planning = true});
    GkdTrainer trainer(student.model, &teacher.model, options, planning);
    const std::vector<Batch> batches(static_cast<size_t>(training.micro_batches), typical_batch(config_, training));
    planning.matmul_flops = planning.attention_flops = 0;
    trainer.step(batches);
    const int64_t gradients = 4 * plan_.parameters;
    StagePlan stage{.name = "uptrain",
                    .detail = fmt::format("a student of at most the teacher's size, {} steps of {} tokens",
                                          steps_of(training), training.batch_tokens),
                    .memory = {{"teacher", teacher.bytes()},
                               {"student's parameters", student.bytes()},
                               {"gradients", gradients},
                               {"masters and moments", trainer.state_bytes() - gradients},
                               {"activations", trainer.work_bytes()},
                               {"workspace of operations", planning.scratch.peak_bytes()}}};
    stage.flops = (planning.matmul_flops + planning.attention_flops) * double(steps_of(training));
    stage.tokens = double(steps_of(training) * training.batch_tokens);
    finish_stage(stage, training.dtype, machine_);
    plan_.stages.push_back(std::move(stage));
  }

  const SearchConfig& config_;
  const PlanMachine& machine_;
  const DType dtype_;
  const TeacherSource teacher_;
  const PlannedModel whole_;
  RunPlan plan_;
};

/// Settings under which distillation fits into the machine's memory: depth first, smaller micro-batches, and then
/// without the widest FFN variants.
std::string memory_advice(const SearchConfig& config, const ModelConfig& teacher, const PlanMachine& machine) {
  SearchConfig other = config;
  TrainingConfig& training = other.distill.training;
  std::string changes;
  const auto fits = [&](std::string* answer) {
    const StagePlan stage = Planner(other, teacher, machine).distill();
    *answer = fmt::format("{} takes {}", changes, format_bytes(double(total_bytes(stage.memory))));
    return stage.fits(machine);
  };
  const auto change = [&](const std::string& what) { changes += (changes.empty() ? "" : ", ") + what; };
  std::string answer;
  if (other.distill.order != DistillOrder::depth_first) {
    other.distill.order = DistillOrder::depth_first;
    change("distill.order=depth_first");
    if (fits(&answer)) return answer;
  }
  const std::string before = changes;
  while (training.batch_tokens % (2 * training.micro_batches * config.data.sequence_length) == 0) {
    training.micro_batches *= 2;
    changes = before;
    change(fmt::format("distill.micro_batches={}", training.micro_batches));
    if (fits(&answer)) return answer;
  }
  std::vector<std::string>& widths = other.search_space.ffn;
  const auto size_of_variant = [&](const std::string& text) {
    return parameter_count(parse_choice(Subblock::ffn, text, teacher), teacher);
  };
  while (!widths.empty()) {
    const auto widest = std::max_element(widths.begin(), widths.end(), [&](const auto& a, const auto& b) {
      return size_of_variant(a) < size_of_variant(b);
    });
    change("no FFN " + *widest);
    widths.erase(widest);
    if (fits(&answer)) return answer;
  }
  return "nothing but a smaller teacher would fit";
}

}  // namespace

int64_t sequences_at_once(const SearchConfig& config, const ModelConfig& teacher, int64_t sequences,
                          const PlanMachine& machine) {
  constexpr int64_t kMost = 4;
  const auto at_once = [&](int64_t times) {
    return std::clamp<int64_t>(times * kScoringTokens / config.data.sequence_length, 1, sequences);
  };
  if (machine.device == Device::cpu) return at_once(1);
  PlanMachine part = machine;
  part.memory_bytes = (machine.memory_bytes + machine.in_use_bytes) / 4 * 3;
  int64_t times = kMost;
  while (times > 1 && !Planner(config, teacher, part).score(at_once(times)).fits(part)) times /= 2;
  return at_once(times);
}

PlanMachine known_gpu(const std::string& name) {
  for (const PlanMachine& gpu : kGpus)
    if (gpu.name == name) return gpu;
  throw unknown_name("GPU", name, known_gpu_names());
}

std::vector<std::string> known_gpu_names() {
  std::vector<std::string> names;
  for (const PlanMachine& gpu : kGpus) names.push_back(gpu.name);
  return names;
}

PlanMachine this_processor(Context& ctx) {
  PlanMachine machine{.name = fmt::format("this machine ({} threads)", ctx.threads)};
  machine.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  machine.f32_flops = 1e9 * matmul_gflops(DType::f32, ctx), machine.bf16_flops = 1e9 * matmul_gflops(DType::bf16, ctx);
  machine.efficiency = 0.85;  // of a distillation step in bf16, README.md
  return machine;
}

PlanMachine this_gpu() {
  const std::vector<CudaDevice> gpus = cuda_devices();
  if (gpus.empty()) throw bad_input("no GPU is to be seen here");
  PlanMachine machine = known_gpu(gpus[0].compute_capability >= 90 ? "h200" : "a100-80gb");
  machine.name = fmt::format("{} ({} in all)", gpus[0].name, format_bytes(double(gpus[0].memory_bytes)));
  if constexpr (kCudaBuilt) {
    const auto [free_bytes, total_bytes] = cuda::memory_state();  // the context has taken its part
    machine.memory_bytes = free_bytes, machine.in_use_bytes = total_bytes - free_bytes;
  }
  machine.resident_bytes = kLibraryBytes;
  return machine;
}

ModelConfig teacher_shape(const SearchConfig& config) {
  const std::filesystem::path folder = teacher_path(config, config.run_dir);
  if (config.teacher.pretrain && !std::filesystem::exists(folder / "config.json")) {
    ModelConfig shape = config.teacher.pretrain->model;
    shape.vocab_size = static_cast<int64_t>(kCorpusSymbols.size());
    return shape;
  }
  return read_config(folder).config;
}

int64_t total_bytes(const std::vector<PlanPart>& parts) {
  int64_t total = 0;
  for (const PlanPart& part : parts) total += part.bytes;
  return total;
}

RunPlan plan_run(const SearchConfig& config, const ModelConfig& teacher, const PlanMachine& machine) {
  return Planner(config, teacher, machine).run();
}

void check_memory(const RunPlan& plan, const StagePlan& stage, const SearchConfig& config, const PlanMachine& machine) {
  if (stage.fits(machine)) return;
  std::string parts;
  for (const PlanPart& part : stage.memory)
    parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", part.name, format_bytes(double(part.bytes)));
  const std::string advice = stage.name == "distill" ? memory_advice(config, plan.teacher, machine)
                                                     : "what runs without it has a verb of its own: tangram distill";
  throw Error(fmt::format("{} needs {} of memory ({}), and {} has {}; {}", stage.name,
                          format_bytes(double(total_bytes(stage.memory))), parts, machine.name,
                          format_bytes(double(machine.memory_bytes)), advice),
              Failure::infeasible);
}

void check_plan(const RunPlan& plan, const SearchConfig& config, const PlanMachine& machine) {
  const StagePlan& distill = plan.stages[0];
  check_memory(plan, distill, config, machine);
  if (machine.disk_bytes && total_bytes(plan.disk) > *machine.disk_bytes) {
    const int64_t boundaries = plan.disk[0].bytes, rest = *machine.disk_bytes - (total_bytes(plan.disk) - boundaries);
    const bool depth_first = config.distill.order == DistillOrder::depth_first;
    const int64_t batch = config.distill.training.batch_tokens;
    const auto tokens = static_cast<int64_t>(distill.tokens * double(rest) / double(boundaries)) / batch * batch;
    throw Error(fmt::format("distill needs {} of disk, and {} are free; {}",
                            format_bytes(double(total_bytes(plan.disk))), format_bytes(double(*machine.disk_bytes)),
                            depth_first && tokens > 0 ? fmt::format("with distill.tokens={} it fits", tokens)
                                                      : "fewer variants, or a larger disk with --run-dir"),
                Failure::infeasible);
  }
}

}  // namespace tangram
