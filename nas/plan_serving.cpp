#include "nas/plan_serving.h"

#include <nlohmann/json.hpp>

#include "nas/table.h"
#include "nas/units.h"
#include "puzzle/example_scores.h"
#include "puzzle/search.h"
#include "puzzle/table_costs.h"

namespace tangram {
namespace {

constexpr int64_t kMostSequences = 384, kFewestSequences = 24;
constexpr int64_t kDevices[] = {1, 2, 4, 8};
constexpr double kSpeedUp = 2;  // of a student, for each device
constexpr std::pair<int64_t, int64_t> kLoads[] = {{128, 128},  {128, 1024}, {128, 2048},
                                                  {128, 4096}, {2048, 128}, {2048, 2048}};

int64_t kv_heads_of(const Architecture& architecture, const ModelConfig& config) {
  int64_t heads = 0;
  for (const BlockChoice& block : architecture)
    heads += block.attention.variant->cost({config, block.attention.size}).kv_elements / (2 * config.head_dim);
  return heads;
}

// The architecture of a solution, whose entries are plain variants.
Architecture architecture_of(const ScoreTable& table, const Problem& problem, const Solution& solution,
                             const ModelConfig& config) {
  Architecture architecture = teacher_architecture(config);
  for (const int64_t r : rows_of(problem, solution)) {
    const Replacement replacement = replacement_of(table.rows[size_t(r)], config);
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      if (replacement.of(s)) architecture[size_t(replacement.first_layer)].of(s) = *replacement.of(s);
  }
  return architecture;
}

Serving best_of(const ModelConfig& teacher, Scenario scenario, const Hardware& hardware) {
  Serving best;
  for (const int64_t devices : kDevices) {
    if (devices > 1 && !(hardware.link_bandwidth > 0)) break;
    scenario.tensor_parallel = devices;
    const Serving serving = best_serving(teacher_architecture(teacher), teacher, scenario, hardware);
    if (serving.throughput >= best.throughput) best = serving;
  }
  return best;
}

std::string rate_text(const Serving& s) {
  if (!(s.throughput > 0)) return fmt::format("does not fit: {}", format_bytes(s.memory_bytes));
  return fmt::format("{:.0f} ± {:.0f}", s.throughput, s.throughput * s.error);
}

std::string way_text(const Serving& s) {
  if (!(s.throughput > 0)) return "-";
  return fmt::format("TP{}, {} sequences", s.scenario.tensor_parallel, s.scenario.concurrency);
}

nlohmann::ordered_json json_of(const Serving& s) {
  if (!(s.throughput > 0)) return nullptr;
  return {{"tokens_per_s_and_device", s.throughput},
          {"relative_error", s.error},
          {"tensor_parallel", s.scenario.tensor_parallel},
          {"concurrency", s.scenario.concurrency},
          {"memory_bytes", s.memory_bytes},
          {"prefill_seconds", s.time.prefill.total()},
          {"decode_seconds", s.time.decode.total()}};
}

}  // namespace

std::optional<PlannedStudent> plan_student(const ModelConfig& teacher, const Scenario& scenario,
                                           const Hardware& hardware, double throughput) {
  ScoreTable table = example_scores(teacher, published_attention(teacher), published_ffn(teacher), 1);
  for (const int64_t devices : kDevices)
    for (int64_t n = scenario.concurrency; n >= kFewestSequences; n = n * 2 / 3) {
      if (devices > scenario.tensor_parallel) continue;
      Scenario s = scenario;
      s.name = fmt::format("load@{}x{}", n, devices), s.concurrency = n, s.tensor_parallel = devices;
      model_costs(table, s, teacher, hardware, hardware.name);
    }
  const std::vector<Constraint> constraints = {
      {.quantity = Quantity::memory, .scenario = "load", .bound = hardware.memory_bytes - hardware.reserved_bytes},
      {.quantity = Quantity::throughput, .scenario = "load", .bound = throughput}};
  const SearchResult found = search(table, {.metric = "kl_divergence", .constraints = constraints});
  if (found.solved.solutions.empty()) return std::nullopt;
  std::optional<PlannedStudent> student(std::in_place);
  student->architecture = architecture_of(table, found.table.problem, found.solved.solutions[0], teacher);
  student->proven = found.solved.status == SolveStatus::optimal;
  student->serving = serve(student->architecture, teacher, table.scenarios[found.scenarios[0]], hardware);
  student->parameters = model_parameters(student->architecture, teacher);
  student->kv_heads = kv_heads_of(student->architecture, teacher);
  return student;
}

std::vector<PlannedServing> plan_serving(const ModelConfig& teacher, const Hardware& hardware, bool with_students) {
  std::vector<PlannedServing> plan;
  const bool has_8_bits = hardware.flops[2] > 0;
  for (const auto& [input, output] : kLoads) {
    const Scenario scenario{.name = fmt::format("{}/{}", input, output),
                            .input_tokens = input,
                            .output_tokens = output,
                            .concurrency = kMostSequences,
                            .precision = has_8_bits ? Precision::fp8 : Precision::bf16};
    PlannedServing load{.input_tokens = input,
                        .output_tokens = output,
                        .alone = best_serving(teacher_architecture(teacher), teacher, scenario, hardware),
                        .best = best_of(teacher, scenario, hardware),
                        .student = std::nullopt};
    if (with_students && load.best.throughput > 0) {
      Scenario s = scenario;
      s.tensor_parallel = load.best.scenario.tensor_parallel;
      load.student = plan_student(teacher, s, hardware, kSpeedUp * load.best.throughput);
    }
    plan.push_back(load);
  }
  return plan;
}

std::string serving_text(const std::vector<PlannedServing>& plan, const Hardware& hardware) {
  const std::string_view precision = plan.empty() ? "" : name_of(plan[0].best.scenario.precision);
  std::string text = fmt::format(
      "\nServing in {} on {} of {} each, by the roofline model: output tokens a second and device, prefill included\n",
      precision, hardware.name, format_bytes(hardware.memory_bytes));
  Table table{.header = {"in/out", "teacher, one device", "sequences", "teacher, its best", "as", "student", "as",
                         "parameters", "KV heads"},
              .rows = {}};
  for (const PlannedServing& load : plan) {
    std::vector<std::string> cells = {
        fmt::format("{}/{}", load.input_tokens, load.output_tokens), rate_text(load.alone),
        load.alone.throughput > 0 ? fmt::format("{}", load.alone.scenario.concurrency) : "-", rate_text(load.best),
        way_text(load.best)};
    if (load.student)
      cells.insert(cells.end(), {rate_text(load.student->serving), way_text(load.student->serving),
                                 format_count(load.student->parameters), fmt::format("{}", load.student->kv_heads)});
    table.rows.push_back(cells);
  }
  text += format_table(table);
  text += fmt::format(
      "Students have {:.0f} times the teacher's best throughput a device. They are searched for among modelled costs "
      "and generated scores: their sizes say what the limit allows, not what it costs in quality.\n",
      kSpeedUp);
  return text;
}

std::string serving_json(const std::vector<PlannedServing>& plan, const Hardware& hardware) {
  nlohmann::ordered_json loads = nlohmann::ordered_json::array();
  for (const PlannedServing& load : plan) {
    nlohmann::ordered_json json = {{"input_tokens", load.input_tokens},
                                   {"output_tokens", load.output_tokens},
                                   {"teacher_on_one_device", json_of(load.alone)},
                                   {"teacher_at_its_best", json_of(load.best)}};
    json["student"] = nullptr;
    if (load.student) {
      json["student"] = json_of(load.student->serving);
      json["student"]["parameters"] = load.student->parameters;
      json["student"]["kv_heads"] = load.student->kv_heads;
      json["student"]["proven"] = load.student->proven;
      json["student"]["scores"] = "generated";
    }
    loads.push_back(json);
  }
  return nlohmann::ordered_json{{"hardware", hardware.name}, {"loads", loads}}.dump(2) + "\n";
}

}  // namespace tangram
