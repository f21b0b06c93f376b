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
  if (costs.prefill_seconds > 0)
    points.push_back(
        {name + ", prefill", costs.prefill_seconds, [part](const Hardware& h) { return part(h).prefill; }});
  if (costs.decode_seconds > 0)
    points.push_back({name + ", decode", costs.decode_seconds, [part](const Hardware& h) { return part(h).decode; }});
}

// Everything that was measured, once: layers of one model have equal shapes.
std::vector<TimedPoint> measured_points(const ScoreTable& table, const ModelConfig& config) {
  std::vector<TimedPoint> points;
  for (size_t s = 0; s < table.scenarios.size(); ++s) {
    if (table.sources[s].name != kMeasured) continue;
    const Scenario scenario = table.scenarios[s];
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
  json["points"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < points.size(); ++i)
    json["points"].push_back({{"name", points[i].name},
                              {"measured_seconds", points[i].seconds},
                              {"stated_seconds", fit.before[i]},
                              {"fitted_seconds", fit.after[i]},
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
  fmt::print(
      in.out,
      "median distance from the measured: {:.0f} % before, {:.0f} % after; scatter about the model {:.0f} %; {} of {} "
      "points are outliers and left out\n"
      "This machine's description is in {}\n",
      100 * median_error(points, fit.before), 100 * median_error(points, fit.after), 100 * fit.hardware.residual,
      std::count(fit.used.begin(), fit.used.end(), false), points.size(), file);
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
  const std::vector<TimedPoint> points = measured_points(table, teacher);
  if (points.empty()) throw bad_input("{}: nothing was measured to fit to", scores_path(config.run_dir).string());
  const Hardware stated = describe_this_machine(ctx);
  const Calibration fit = calibrate(stated, points);
  const std::filesystem::path file = config.run_dir / "calibrated.yaml";
  write_file_atomically(file, write_hardware(fit.hardware, fmt::format("# Fitted to {} times that `tangram measure` "
                                                                       "took, with {} threads.\n",
                                                                       points.size(), ctx.threads)));
  const std::string shown = file.lexically_proximate(std::filesystem::current_path()).string();
  in.json ? print_json(points, fit, shown, in) : print_text(points, fit, stated, shown, in);
}

}  // namespace tangram
