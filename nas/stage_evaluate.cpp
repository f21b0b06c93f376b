#include "blocks/checkpoint.h"
#include "distill/bld.h"
#include "distill/skill_accuracy.h"
#include "distill/skills.h"
#include "kernels/cuda_devices.h"
#include "kernels/matmul_cuda.h"
#include "nas/architecture_file.h"
#include "nas/evaluation_file.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/taken_limits.h"
#include "puzzle/costs.h"
#include "puzzle/quiet_timer.h"

namespace tangram {
namespace {

constexpr int64_t kBatchTokens = 4096;

int64_t parameters_of(const Model& model) {
  int64_t count = 0;
  for (const NamedTensor& t : named_tensors(model)) count += t.tensor.size();
  return count;
}

// Measures models beside the teacher on the last sequences of the validation tokens: scoring takes the first.
class Evaluator {
 public:
  Evaluator(const StageInput& in, const Model& teacher)
      : in_(in), teacher_(teacher), tokens_(load_tokens(in.config, in.run_dir, /*validation=*/true)) {
    const int64_t T = tokens_.sequence_length;
    const int64_t count = std::clamp<int64_t>(in.config.evaluate.tokens / T, 1, tokens_.sequences);
    const int64_t at_once = std::max<int64_t>(1, kBatchTokens / T);
    for (int64_t s = tokens_.sequences - count; s < tokens_.sequences; s += at_once) {
      std::vector<int64_t> rows;
      for (int64_t r = s; r < std::min(s + at_once, tokens_.sequences); ++r) rows.push_back(r);
      batches_.push_back(read_batch(tokens_, rows));
    }
  }

  Evaluation measure(const Model& model, const std::string& name, const std::string& target, const std::string& method,
                     const std::string& state) {
    Evaluation result{.name = name,
                      .target = target,
                      .method = method,
                      .state = state,
                      .parameters = parameters_of(model),
                      .metrics = {},
                      .skills = {}};
    std::array<std::vector<double>, kMetricCount> samples;
    for (const Batch& batch : batches_) {
      ArenaScope scope(in_.ctx.scratch);
      const SequenceBatch sequences(model.config, batch.lengths, {}, in_.ctx.scratch, in_.ctx);
      const Tensor of_student = hidden_states(model, batch, sequences),
                   of_teacher = hidden_states(teacher_, batch, sequences);
      const SequenceMetrics metrics =
          sequence_metrics(of_student, model, of_teacher, teacher_,
                           {batch.tokens, batch.targets, batch.lengths, tokens_.sequence_length}, in_.ctx);
      for (const MetricValues& values : metrics)
        for (size_t m = 0; m < kMetricCount; ++m) samples[m].push_back(values[m]);
    }
    for (size_t m = 0; m < kMetricCount; ++m) result.metrics[m] = mean_and_error(samples[m]);
    if (in_.config.data.skills) {
      const std::vector<SkillCount> counts = skill_accuracy(model, corpus_of(in_.config), Split::validation, 0,
                                                            in_.config.evaluate.skill_sequences, in_.ctx);
      for (size_t i = 0; i < counts.size(); ++i)
        result.skills[std::string(corpus_skills()[i].name)] = {counts[i].right, counts[i].total};
    }
    return result;
  }

 private:
  Tensor hidden_states(const Model& model, const Batch& batch, const SequenceBatch& sequences) {
    const Tensor hidden = in_.ctx.scratch.tensor(sequences.tokens(), model.config.hidden_size, model.dtype);
    model_hidden(hidden, model, batch.tokens, sequences.view(), in_.ctx);
    return hidden;
  }

  const StageInput& in_;
  const Model& teacher_;
  TokenDataset tokens_;
  std::vector<Batch> batches_;
};

// The student with its variants as they were before the first step of distillation.
Evaluation measure_undistilled(Evaluator& evaluator, const ChosenArchitecture& chosen, const Model& teacher,
                               const StageInput& in) {
  std::vector<Replacement> trained;
  std::vector<LibraryEntry> entries;
  for (const Replacement& r : replacements_of(chosen, teacher.config))
    if (needs_training(r, teacher.config))
      trained.push_back(r);
    else
      entries.push_back(load_entry(library_dir(in.run_dir), r, teacher));
  BldOptions options;
  options.init = in.config.distill.init;
  options.batch_tokens = 1;
  options.seed = in.config.seed;
  Context host(Context::Options{.threads = in.ctx.threads});  // where variants start
  const BldTrainer before_training(
      teacher, trained, options,
      [&](int64_t layer) { return load_statistics(statistics_path(in.run_dir, layer), teacher.config); }, host);
  for (size_t i = 0; i < trained.size(); ++i) entries.push_back(before_training.entry(i));
  return evaluator.measure(move_model(assemble(teacher, entries), in.ctx.device, in.ctx), chosen.name, chosen.target,
                           chosen.method, "undistilled");
}

bool is_searched(const ChosenArchitecture& chosen) { return chosen.method.starts_with("mip"); }

// One model in one scenario, in a context of its own: its scratch memory is then what this model took.
WholeRun run_whole(const Architecture& blocks, const ModelConfig& config, const Scenario& scenario, Context& ctx) {
  Context own(Context::Options{.device = ctx.device, .threads = ctx.threads});
  if constexpr (kCudaBuilt)
    if (ctx.device == Device::cuda) cuda::load_matmul_choices(cuda::matmul_choices(ctx), own);
  return measure_whole(blocks, config, scenario, {}, own);
}

// The limits of a student's target.
std::vector<Constraint> limits_of(const std::string& student, const std::vector<ChosenArchitecture>& all,
                                  const SearchConfig& config) {
  for (const ChosenArchitecture& chosen : all)
    for (const TargetConfig& target : config.constraints)
      if (chosen.name == student && chosen.target == target.name) return constraints_of(target);
  return {};
}

// Times and memory of the searched students as whole models, and of the teacher where it fits, in every scenario that
// this machine can run.
std::vector<MeasuredRuntime> measure_runtimes(const std::vector<ChosenArchitecture>& all, const ModelConfig& teacher,
                                              const StageInput& in) {
  std::vector<MeasuredRuntime> runtimes;
  const std::vector<Scenario> scenarios = scenarios_of(in.config);
  for (const Scenario& scenario : scenarios) check_runnable(scenario);
  QuietTimer timer(in.ctx);
  std::vector<QuietTimer::Timing> timings;
  const auto measure = [&](const std::string& name, const Architecture& blocks) {
    ModelConfig config = teacher;
    config.num_hidden_layers = std::ssize(blocks);
    for (const Scenario& scenario : scenarios) {
      WholeRun whole;
      const QuietTimer::Timing timing = timer.time([&] {
        whole = run_whole(blocks, config, scenario, in.ctx);
        return whole.runtime;
      });
      runtimes.push_back({name, scenario.name, timing.runtime.prefill_seconds, timing.runtime.decode_seconds,
                          double(whole.weight_bytes), double(whole.kv_cache_bytes), double(whole.workspace_bytes)});
      timings.push_back(timing);
    }
  };
  const Architecture own = teacher_architecture(teacher);
  const double teacher_bytes = model_parameters(own, teacher) * double(size_of(DType::f32));
  if (teacher_bytes < 0.5 * double(memory_bytes(in.ctx))) measure(kTeacher, own);  // beside the one that is loaded
  Progress progress(in.console, "evaluate: time", "architectures", double(all.size()));
  for (size_t i = 0; i < all.size(); ++i) {
    if (is_searched(all[i])) measure(all[i].name, blocks_of(all[i], teacher));
    progress.update(double(i + 1));
  }
  for (size_t i = 0; i < timings.size(); ++i) runtimes[i].is_disturbed = timer.is_disturbed(timings[i]);
  const auto disturbed = std::count_if(runtimes.begin(), runtimes.end(), [](auto& r) { return r.is_disturbed; });
  if (disturbed > 0) in.console.say("evaluate: {}", disturbance_text(disturbed, std::ssize(runtimes), "evaluate"));
  check_limits(runtimes, scenarios, [&](const std::string& student) { return limits_of(student, all, in.config); });
  return runtimes;
}

}  // namespace

std::vector<std::filesystem::path> run_evaluate(const StageInput& in) {
  const Model teacher = load_teacher(in.config, in.run_dir, in.config.distill.training.dtype);
  const auto there = [&](const Model& model) { return move_model(model, in.ctx.device, in.ctx); };
  const Model teacher_there = there(teacher);
  Evaluator evaluator(in, teacher_there);
  const std::vector<ChosenArchitecture> all = read_architectures(architecture_path(in.run_dir, "any").parent_path());
  std::vector<Evaluation> evaluations{evaluator.measure(teacher_there, "teacher", "", "teacher", "assembled")};
  Progress progress(in.console, "evaluate", "architectures", double(all.size()));
  for (size_t i = 0; i < all.size(); ++i) {
    const ChosenArchitecture& chosen = all[i];
    if (in.config.evaluate.without_distillation && is_searched(chosen))
      evaluations.push_back(measure_undistilled(evaluator, chosen, teacher, in));
    evaluations.push_back(
        evaluator.measure(there(assemble(teacher, replacements_of(chosen, teacher.config), library_dir(in.run_dir))),
                          chosen.name, chosen.target, chosen.method, "assembled"));
    if (is_healed(chosen))
      evaluations.push_back(evaluator.measure(there(load_model(student_path(in.run_dir, chosen.name), teacher.dtype)),
                                              chosen.name, chosen.target, chosen.method, "healed"));
    progress.update(double(i + 1));
  }
  const std::filesystem::path path = in.run_dir / "evaluation.json";
  write_evaluations(path, evaluations);
  const std::filesystem::path runtime_path = in.run_dir / "runtime.json";
  std::filesystem::remove(runtime_path);
  if (!in.config.evaluate.runtime) return {path};
  write_runtimes(runtime_path, measure_runtimes(all, teacher.config, in));
  return {path, runtime_path};
}

}  // namespace tangram
