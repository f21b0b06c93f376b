#pragma once
#include <optional>
#include <string>
#include <vector>

#include "nas/config.h"

namespace tangram {

/// A machine as a plan sees it. The rates of GPUs are stated, not measured.
struct PlanMachine {
  std::string name;
  Device device = Device::cpu;
  int64_t memory_bytes = 0;              ///< that a process can use: a GPU's, or the host's for a CPU
  int64_t resident_bytes = 0;            ///< of it what context and libraries take
  double f32_flops = 0, bf16_flops = 0;  ///< per second, of large matrix products
  double efficiency = 0;  ///< part of that rate which a stage reaches, all its other work and waits included
  std::optional<int64_t> disk_bytes = {};  ///< free for a run; unknown: not checked
  int64_t in_use_bytes = 0;                ///< memory beside memory_bytes, which others use now
  double network_bytes = 50e9;             ///< per second, that a GPU sends to GPUs of other nodes: 400 Gbit/s

  double flops(DType dtype) const { return efficiency * (dtype == DType::f32 ? f32_flops : bf16_flops); }
};

/// The GPUs that plans know: h200, h100-80gb, a100-80gb. Throws Error (bad_input) naming them for another.
PlanMachine known_gpu(const std::string& name);
std::vector<std::string> known_gpu_names();

/// This machine's processor, with its matrix products measured now.
PlanMachine this_processor(Context& ctx);

/// This machine's first GPU, with the memory that is free now and the rates of the known GPU that is most like it.
/// Throws Error (bad_input) if there is none.
PlanMachine this_gpu();

/// The shape of a config's teacher, from its config.json alone.
ModelConfig teacher_shape(const SearchConfig& config);

/// Some bytes and what they are for.
struct PlanPart {
  std::string name;
  int64_t bytes;
};
int64_t total_bytes(const std::vector<PlanPart>& parts);

/// What one stage takes. Memory is that of the stage's own layout, and operations are those it issues: both found by
/// running it without weights and without computing.
struct StagePlan {
  std::string name, detail;
  std::vector<PlanPart> memory = {};  ///< of the device, most at any one time
  double flops = 0, seconds = 0;
  double tokens = 0;  ///< that it works through

  bool fits(const PlanMachine& machine) const { return total_bytes(memory) <= machine.memory_bytes; }
};

struct RunPlan {
  ModelConfig teacher;
  int64_t parameters = 0;  ///< of the teacher
  DType dtype = DType::f32;
  std::vector<StagePlan> stages;             ///< distill, score, uptrain
  std::vector<PlanPart> host;                ///< memory of the host while distill runs, beside what the system caches
  std::vector<PlanPart> disk;                ///< at most at one time while distill runs
  double bytes_written = 0, bytes_read = 0;  ///< by distill
  double disk_rate = 0;                      ///< bytes per second, read and written each, at which boundaries keep up
  double start_flops = 0;                    ///< of the host's least-squares solutions, on one core in f64
};

RunPlan plan_run(const SearchConfig& config, const ModelConfig& teacher, const PlanMachine& machine);

/// How many of `sequences` sequences `score` takes at once: about kScoringTokens tokens of them; on a GPU, where larger
/// products are faster and each entry of the library is moved once a batch, up to four times as many if they take no
/// more than three quarters of its memory. It does not depend on what others use of it.
int64_t sequences_at_once(const SearchConfig& config, const ModelConfig& teacher, int64_t sequences,
                          const PlanMachine& machine);

/// Throws Error (infeasible) if a stage of the plan does not fit into the machine's memory, with settings with which it
/// would.
void check_memory(const RunPlan& plan, const StagePlan& stage, const SearchConfig& config, const PlanMachine& machine);

/// Throws Error (infeasible) naming what of distillation does not fit into the machine's memory or disk, and settings
/// with which it would.
void check_plan(const RunPlan& plan, const SearchConfig& config, const PlanMachine& machine);

/// The plan as text for people, and as JSON.
std::string plan_text(const RunPlan& plan, const PlanMachine& machine);
std::string plan_json(const RunPlan& plan, const PlanMachine& machine);

}  // namespace tangram
