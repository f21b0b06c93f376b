#include <nlohmann/json.hpp>

#include "nas/plan.h"
#include "nas/table.h"

namespace tangram {
namespace {

using nlohmann::ordered_json;

void add_parts(Table& table, const std::vector<PlanPart>& parts, const std::string& total) {
  for (const PlanPart& part : parts) table.rows.push_back({"  " + part.name, format_bytes(double(part.bytes))});
  table.rows.push_back({"  " + total, format_bytes(double(total_bytes(parts)))});
}

ordered_json json_of(const std::vector<PlanPart>& parts) {
  ordered_json json = ordered_json::object();
  for (const PlanPart& part : parts) json[part.name] = part.bytes;
  json["total"] = total_bytes(parts);
  return json;
}

}  // namespace

std::string plan_text(const RunPlan& plan, const PlanMachine& machine) {
  const std::string device = machine.device == Device::cuda ? "GPU" : "CPU";
  std::string text = fmt::format(
      "teacher: {} layers, {} parameters, {} in {}\n{}: {} of memory; {:.0f} TFLOP/s in bf16, {:.3g} in f32 in large "
      "products, of which stages are taken to reach {:.0f} %\n",
      plan.teacher.num_hidden_layers, format_count(double(plan.parameters)),
      format_bytes(double(plan.parameters * size_of(plan.dtype))), name_of(plan.dtype), machine.name,
      format_bytes(double(machine.memory_bytes)), machine.bf16_flops / 1e12, machine.f32_flops / 1e12,
      100 * machine.efficiency);
  for (const StagePlan& stage : plan.stages) {
    Table table{.header = {stage.name + ": memory", "bytes"}, .rows = {}};
    add_parts(table, stage.memory, stage.fits(machine) ? "in all" : "in all: DOES NOT FIT");
    text += fmt::format("\n{}\n{}", stage.detail, format_table(table));
    text += fmt::format("{:.3g} operations, {} tokens/s, {:.3g} {}-hours\n", stage.flops,
                        format_count(stage.tokens / stage.seconds), stage.seconds / 3600, device);
    if (stage.name != "distill") continue;
    Table files{.header = {"distill: host and disk", "bytes"}, .rows = {}};
    add_parts(files, plan.host, "host memory in all");
    add_parts(files, plan.disk, "disk in all");
    text += format_table(files);
    text += fmt::format("{} written, {} read\n", format_bytes(plan.bytes_written), format_bytes(plan.bytes_read));
    if (plan.disk_rate > 0)
      text +=
          fmt::format("boundaries keep up with a disk that reads and writes {}/s each\n", format_bytes(plan.disk_rate));
    if (plan.start_flops > 0)
      text +=
          fmt::format("least-squares solutions: {:.3g} operations in f64 on the host; distill.init=prune has none\n",
                      plan.start_flops);
  }
  return text;
}

std::string plan_json(const RunPlan& plan, const PlanMachine& machine) {
  ordered_json stages = ordered_json::array();
  for (const StagePlan& stage : plan.stages)
    stages.push_back({{"name", stage.name},
                      {"detail", stage.detail},
                      {"memory_bytes", json_of(stage.memory)},
                      {"fits", stage.fits(machine)},
                      {"flops", stage.flops},
                      {"seconds", stage.seconds},
                      {"tokens_per_s", stage.tokens / stage.seconds}});
  const ordered_json json = {{"machine", machine.name},
                             {"device_memory_bytes", machine.memory_bytes},
                             {"teacher_parameters", plan.parameters},
                             {"stages", stages},
                             {"host_memory_bytes", json_of(plan.host)},
                             {"disk_bytes", json_of(plan.disk)},
                             {"bytes_written", plan.bytes_written},
                             {"bytes_read", plan.bytes_read},
                             {"disk_bytes_per_s", plan.disk_rate},
                             {"least_squares_flops", plan.start_flops}};
  return json.dump(2) + "\n";
}

}  // namespace tangram
