#include "nas/calibrate.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "blocks/config_json.h"
#include "blocks/file.h"
#include "kernels/cuda_devices.h"
#include "kernels/peak.h"
#include "nas/hardware_file.h"
#include "nas/run_files.h"
#include "nas/table.h"
#include "puzzle/calibration.h"
#include "puzzle/measure.h"
#include "puzzle/score_table.h"

namespace tangram {
namespace {

using Part = std::function<ModelledTime(const Hardware&)>;

// Both phases of a part that was measured.
void add_points(std::vector<TimedPoint>& points, const std::string& name, const ScenarioCosts& costs,
                const Part& part) {
  const bool disturbed = costs.is_disturbed == 1;
  if (costs.prefill_seconds > 0)
    points.push_back(
        {name + ", prefill", costs.prefill_seconds, [part](const Hardware& h) { return part(h).prefill; }, disturbed});
  if (costs.decode_seconds > 0)
    points.push_back(
        {name + ", decode", costs.decode_seconds, [part](const Hardware& h) { return part(h).decode; }, disturbed});
}

// All that was measured for the scenarios, once: layers of one model have equal shapes.
std::vector<TimedPoint> measured_points(const ScoreTable& table, const std::vector<Scenario>& scenarios,
                                        const ModelConfig& config) {
  std::vector<TimedPoint> points;
  for (const Scenario& scenario : scenarios) {
    const size_t s = scenario_index(table, scenario.name);
    if (table.sources[s].name != kMeasured) continue;
    std::set<std::string> done;
    for (const TableRow& row : table.rows) {
      if (!row.attention.empty() && !row.ffn.empty()) continue;  // a sum of two that stand alone
      const Subblock subblock = row.ffn.empty() ? Subblock::attention : Subblock::ffn;
      const Choice choice = parse_choice(subblock, row.ffn.empty() ? row.attention : row.ffn, config);
      const std::string name = fmt::format("{}, {} {}", scenario.name, name_of(subblock), choice.name());
      if (choice.variant->no_op || !done.insert(name).second) continue;
      add_points(points, name, row.costs[s],
                 [=](const Hardware& h) { return model_subblock(choice, config, scenario, h); });
    }
    add_points(points, scenario.name + ", outside of blocks", table.outside[s],
               [=](const Hardware& h) { return model_outside(config, scenario, h); });
  }
  return points;
}

// What an efficiency above 1 means.
std::string_view reason_above_one(Term term) {
  switch (term) {
    case Term::matmul_compute:
    case Term::attention_prefill:
      return "the description understates the machine's arithmetic";
    case Term::overhead:
      return "starts cost less than launch_seconds and step_seconds state";
    case Term::all_reduce:
      return "the description understates its links";
    case Term::matmul_memory:
    case Term::attention_decode:
    case Term::elementwise:
      break;
  }
  return "caches gave bytes faster than memory's rate, which larger layers will not see, or memory_bandwidth is "
         "understated";
}

// A line for each efficiency above 1.
std::vector<std::string> remarks_of(const Hardware& hardware) {
  std::vector<std::string> remarks;
  for (size_t t = 0; t < kTermCount; ++t)
    if (hardware.efficiency[t].value > 1 && hardware.efficiency[t].error > 0)
      remarks.push_back(fmt::format("{} {:.3g} is above 1: {}", kTermNames[t], hardware.efficiency[t].value,
                                    reason_above_one(static_cast<Term>(t))));
  return remarks;
}

/// Which points of a fit do not count, and why.
struct LeftOut {
  int64_t disturbed = 0, disturbed_but_used = 0;
  std::vector<std::string> far;  // by name
};

LeftOut left_out(const std::vector<TimedPoint>& points, const Calibration& fit) {
  LeftOut out;
  for (size_t i = 0; i < points.size(); ++i) {
    out.disturbed += points[i].is_disturbed && !fit.used[i];
    out.disturbed_but_used += points[i].is_disturbed && fit.used[i];
    if (!points[i].is_disturbed && !fit.used[i]) out.far.push_back(points[i].name);
  }
  return out;
}

std::string left_out_text(const LeftOut& out, size_t points) {
  std::string text;
  if (out.disturbed > 0)
    text += fmt::format("{} of {} points were timed while other work kept the machine busy, and are left out\n",
                        out.disturbed, points);
  if (out.disturbed_but_used > 0)
    text += fmt::format(
        "{} of {} points were timed while other work kept the machine busy; too few others are there "
        "to leave them out: do not trust this fit\n",
        out.disturbed_but_used, points);
  if (!out.far.empty())
    text += fmt::format("{} of {} points are far from the model of all others, and left out: {}\n", out.far.size(),
                        points, fmt::join(out.far, "; "));
  return text;
}

double median_error(const std::vector<TimedPoint>& points, const std::vector<double>& modelled) {
  std::vector<double> errors;
  for (size_t i = 0; i < points.size(); ++i) errors.push_back(std::abs(modelled[i] / points[i].seconds - 1));
  std::nth_element(errors.begin(), errors.begin() + std::ssize(errors) / 2, errors.end());
  return errors[errors.size() / 2];
}

void print_json(const std::vector<TimedPoint>& points, const Calibration& fit, const std::string& file,
                const VerbInput& in) {
  nlohmann::ordered_json json = {{"hardware", file}, {"residual", fit.hardware.residual}};
  for (size_t t = 0; t < kTermCount; ++t)
    json["efficiency"][std::string(kTermNames[t])] = {{"value", fit.hardware.efficiency[t].value},
                                                      {"error", fit.hardware.efficiency[t].error}};
  json["remarks"] = remarks_of(fit.hardware);
  json["points"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < points.size(); ++i)
    json["points"].push_back({{"name", points[i].name},
                              {"measured_seconds", points[i].seconds},
                              {"stated_seconds", fit.before[i]},
                              {"fitted_seconds", fit.after[i]},
                              {"disturbed", points[i].is_disturbed},
                              {"used", bool(fit.used[i])}});
  fmt::print(in.out, "{}\n", json.dump(2));
}

void print_text(const std::vector<TimedPoint>& points, const Calibration& fit, const Hardware& stated,
                const std::string& file, const VerbInput& in) {
  Table times{.header = {"point", "measured", "modelled before", "after", "after / measured"}, .rows = {}};
  for (size_t i = 0; i < points.size(); ++i)
    times.rows.push_back({points[i].name, format_seconds(points[i].seconds), format_seconds(fit.before[i]),
                          format_seconds(fit.after[i]), fmt::format("{:.2f}", fit.after[i] / points[i].seconds)});
  Table efficiencies{.header = {"efficiency", "before", "after", "error bar"}, .rows = {}};
  for (size_t t = 0; t < kTermCount; ++t)
    efficiencies.rows.push_back({std::string(kTermNames[t]), fmt::format("{:.3g}", stated.efficiency[t].value),
                                 fmt::format("{:.3g}", fit.hardware.efficiency[t].value),
                                 fmt::format("{:.0f} %", 100 * fit.hardware.efficiency[t].error)});
  fmt::print(in.out, "{}\n{}", format_table(times), format_table(efficiencies));
  for (const std::string& remark : remarks_of(fit.hardware)) fmt::print(in.out, "{}\n", remark);
  fmt::print(in.out, "{}", left_out_text(left_out(points, fit), points.size()));
  fmt::print(in.out,
             "median distance from the measured: {:.0f} % before, {:.0f} % after; scatter about the model {:.0f} %\n"
             "This machine's description is in {}\n",
             100 * median_error(points, fit.before), 100 * median_error(points, fit.after), 100 * fit.hardware.residual,
             file);
}

}  // namespace

Hardware describe_this_machine(Context& ctx) {
  const bool on_gpu = ctx.device == Device::cuda;
  Hardware hardware{.name = "this machine"};
  hardware.memory_bytes =
      on_gpu ? double(cuda_devices()[0].memory_bytes) : double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE));
  hardware.reserved_bytes = 0.02 * hardware.memory_bytes;
  const Peak peak = measure_peak(ctx);
  hardware.memory_bandwidth = 1e9 * peak.read_gb_per_s;
  hardware.flops = {1e9 * peak.f32_gflops, 1e9 * peak.bf16_gflops, 0};
  hardware.launch_seconds = on_gpu ? 2e-6 : 5e-6;
  hardware.step_seconds = 20e-6;
  hardware.prefill_tokens = MeasureOptions().prefill_tokens_at_most;
  hardware.of(Term::matmul_compute) = hardware.of(Term::matmul_memory) = {.value = 0.8, .error = 0.5};
  for (const Term term : {Term::attention_prefill, Term::attention_decode, Term::elementwise})
    hardware.of(term) = {.value = 0.4, .error = 1};
  hardware.of(Term::all_reduce) = {.value = 1, .error = 0};
  hardware.of(Term::overhead) = {.value = 1, .error = 1};
  hardware.residual = 0.2;
  return hardware;
}

void calibrate_hardware(const SearchConfig& config, Context& ctx, const VerbInput& in) {
  if (!config.hardware.is_this())
    throw bad_input(
        "{}: --calibrate fits this machine's description, and the config's hardware is another; with "
        "--set hardware=this it is measured",
        place_of(config, "hardware"));
  const ModelConfig teacher = read_config(teacher_path(config, config.run_dir)).config;
  const ScoreTable table = read_scores(scores_path(config.run_dir));
  const std::vector<TimedPoint> points = measured_points(table, scenarios_of(config), teacher);
  if (points.empty()) throw bad_input("{}: nothing was measured to fit to", scores_path(config.run_dir).string());
  const Hardware stated = describe_this_machine(ctx);
  const Calibration fit = calibrate(stated, points);
  const std::filesystem::path file = config.run_dir / "calibrated.yaml";
  const auto used = std::count(fit.used.begin(), fit.used.end(), true);
  std::string remark = fmt::format("# Fitted to {} of {} times that `tangram measure` took, with {} threads.\n", used,
                                   points.size(), ctx.threads);
  for (const std::string& line : remarks_of(fit.hardware)) remark += fmt::format("# {}\n", line);
  if (const LeftOut out = left_out(points, fit); out.disturbed_but_used > 0)
    remark += fmt::format("# {} of them were disturbed by other work.\n", out.disturbed_but_used);
  write_file_atomically(file, write_hardware(fit.hardware, remark));
  const std::string shown = file.lexically_proximate(std::filesystem::current_path()).string();
  in.json ? print_json(points, fit, shown, in) : print_text(points, fit, stated, shown, in);
}

}  // namespace tangram
