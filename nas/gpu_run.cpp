#include "nas/gpu_run.h"

#include <algorithm>

#include "blocks/file.h"
#include "kernels/cuda_devices.h"
#include "kernels/matmul_cuda.h"
#include "nas/digest.h"
#include "nas/plan.h"

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

}  // namespace

void check_gpu_memory(const SearchConfig& config, std::span<const std::string_view> stages) {
  const auto is_to_run = [&](std::string_view name) {
    return std::find(stages.begin(), stages.end(), name) != stages.end();
  };
  if (!is_to_run("distill") && !is_to_run("score")) return;
  const PlanMachine machine = this_gpu();
  const RunPlan plan = plan_run(config, teacher_shape(config), machine);
  for (const StagePlan& stage : plan.stages)
    if (stage.name != "uptrain" && is_to_run(stage.name)) check_memory(plan, stage, config, machine);
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
