#include <sys/statvfs.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "nas/hardware_file.h"
#include "nas/model_verbs.h"
#include "nas/plan.h"
#include "nas/plan_ranks.h"
#include "nas/plan_serving.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string config, run_dir, gpu, disk, hardware;
  int64_t gpus = 0;
  std::vector<std::string> overrides;
};

/// Free bytes of the disk on which a folder is, or would be made.
int64_t free_disk(fs::path folder) {
  while (!fs::exists(folder) && folder.has_parent_path() && folder != folder.parent_path())
    folder = folder.parent_path();
  struct statvfs disk {};
  if (statvfs(folder.c_str(), &disk) != 0) throw Error(fmt::format("{}: no disk to be seen", folder.string()));
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

PlanMachine machine_of(const Options& o, const SearchConfig& config, const VerbInput& in) {
  PlanMachine machine;
  if (o.gpu.empty() && in.device == Device::cuda) {
    machine = this_gpu();
    machine.disk_bytes = free_disk(config.run_dir);
  } else if (o.gpu.empty()) {
    Context ctx({.threads = in.threads});
    machine = this_processor(ctx);
    machine.disk_bytes = free_disk(config.run_dir);
  } else {
    machine = known_gpu(o.gpu);
  }
  if (o.disk.empty()) return machine;
  const std::optional<double> bytes = parse_bytes(o.disk);
  if (!bytes || *bytes < 0) throw bad_input("--disk {}: no number of bytes; write 500GB or 2 TiB", o.disk);
  machine.disk_bytes = static_cast<int64_t>(*bytes);
  return machine;
}

void run_plan(const Options& o, const VerbInput& in) {
  SearchConfig config = read_search_config(o.config, o.overrides);
  if (!o.run_dir.empty()) config.run_dir = fs::absolute(o.run_dir).lexically_normal();
  const ModelConfig teacher = teacher_shape(config);
  if (!o.hardware.empty()) {
    for (const auto& [name, is_given] :
         {std::pair("--gpu", !o.gpu.empty()), {"--gpus", o.gpus > 0}, {"--disk", !o.disk.empty()}})
      if (is_given)
        throw bad_input(
            "{} with --hardware: the one is of running the search, the other of serving students; leave "
            "one of the two out",
            name);
    const Hardware hardware = named_hardware(o.hardware);
    const std::vector<PlannedServing> serving = plan_serving(teacher, hardware, /*with_students=*/true);
    fmt::print(in.out, "{}", in.json ? serving_json(serving, hardware) : serving_text(serving, hardware));
    return;
  }
  const PlanMachine machine = machine_of(o, config, in);
  if (o.gpus > 0) {
    const RanksPlan plan = plan_ranks(config, teacher, machine, o.gpus);
    fmt::print(in.out, "{}", in.json ? ranks_json(plan, machine) : ranks_text(plan, machine));
    return;
  }
  const RunPlan plan = plan_run(config, teacher, machine);
  fmt::print(in.out, "{}", in.json ? plan_json(plan, machine) : plan_text(plan, machine));
  std::fflush(in.out);
  check_plan(plan, config, machine);
}

}  // namespace

std::function<void(const VerbInput&)> add_plan(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  app.add_option("CONFIG", o->config, "Search config, a YAML file; of the teacher only its config.json is read")
      ->required();
  app.add_option("--gpu", o->gpu,
                 "The GPU to plan for; if none, this machine's processor, or with --device cuda its GPU")
      ->check(CLI::IsMember(known_gpu_names()));
  app.add_option(
         "--gpus", o->gpus,
         "Plan distillation, breadth first, on so many of them: the grid of stages and replicas that a run on as "
         "many ranks chooses, its memory, traffic and time, by a simulation of its steps")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option(
         "--hardware", o->hardware,
         "Plan serving instead: what the teacher and students of twice its speed reach on this hardware, by the "
         "roofline model, in the published scenarios; one of " +
             fmt::format("{}", fmt::join(known_hardware_names(), ", ")) + ", or a description's path")
      ->type_name("NAME|FILE");
  app.add_option("--disk", o->disk,
                 "Free disk to plan for, such as 2TB; if none, that of the run where --gpu is not given");
  app.add_option("--run-dir", o->run_dir, "Folder of the run instead of the config's run_dir");
  app.add_option("--set", o->overrides, "Override a key: --set distill.order=depth_first; repeat for more")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return [o](const VerbInput& in) { run_plan(*o, in); };
}

}  // namespace tangram
