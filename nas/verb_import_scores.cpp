#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "nas/model_verbs.h"
#include "nas/units.h"
#include "puzzle/score_csv.h"

namespace tangram {
namespace {

struct Options {
  std::string csv, out;
  std::vector<std::string> scenarios, higher_is_better;
};

// `chat=128/128/64`: tokens in, tokens out, sequences together.
Scenario parse_scenario(std::string_view text) {
  Scenario scenario;
  const size_t equals = text.find('=');
  std::vector<int64_t> counts;
  if (equals != std::string_view::npos && equals > 0) {
    scenario.name = text.substr(0, equals);
    for (size_t at = equals + 1; at <= text.size();) {
      const size_t end = std::min(text.find('/', at), text.size());
      const auto count = parse_count(text.substr(at, end - at));
      if (!count || *count < 1) break;
      counts.push_back(*count);
      at = end + 1;
    }
  }
  if (counts.size() != 3)
    throw bad_input("--scenario {}: write its name, tokens in, tokens out and sequences: chat=128/128/64", text);
  scenario.input_tokens = counts[0], scenario.output_tokens = counts[1], scenario.concurrency = counts[2];
  return scenario;
}

void run_import(const Options& o, const VerbInput& in) {
  CsvMeaning meaning{.higher_is_better = o.higher_is_better};
  for (const std::string& text : o.scenarios) {
    meaning.scenarios.push_back(parse_scenario(text));
    for (size_t s = 0; s + 1 < meaning.scenarios.size(); ++s)
      if (meaning.scenarios[s].name == meaning.scenarios.back().name)
        throw bad_input("--scenario {}: a second scenario '{}'; give each its name", text, meaning.scenarios[s].name);
  }
  CsvReport report;
  const ScoreTable table = read_score_csv(o.csv, meaning, report);
  for (const std::string& metric : o.higher_is_better) metric_index(table, metric);  // throws, naming the known ones
  write_scores(table, o.out);
  if (in.json) {
    fmt::print(in.out, "{}\n",
               nlohmann::ordered_json{{"rows", report.rows},
                                      {"layers", table.layer_count},
                                      {"missing_scores", report.missing_scores},
                                      {"missing_costs", report.missing_costs},
                                      {"taken_as_zero", report.taken_as_zero}}
                   .dump(2));
    return;
  }
  fmt::print(in.out, "{}: {} replacements of {} layers; missing: {} scores, {} costs\n", o.out, report.rows,
             table.layer_count, report.missing_scores, report.missing_costs);
  if (!report.taken_as_zero.empty()) fmt::print(in.out, "taken as 0: {}\n", fmt::join(report.taken_as_zero, ", "));
}

}  // namespace

std::function<void(const VerbInput&)> add_import_scores(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  app.add_option("CSV", o->csv,
                 "Comma-separated values; columns: layer (or 'outside'), layers, attention, ffn, teacher (1 or 0), "
                 "parameters, weight_bytes, kv_cache_bytes, prefill_seconds, decode_seconds, workspace_bytes "
                 "(with 'chat.' in front for a scenario 'chat'), X.standard_error; all others are metrics")
      ->required();
  app.add_option("--out", o->out, "Score table to write")->required();
  const auto add_list = [&](const char* name, std::vector<std::string>& value, const char* help, const char* type) {
    app.add_option(name, value, help)
        ->type_name(type)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  add_list("--scenario", o->scenarios,
           "What the costs are given for: name, tokens in, tokens out, sequences together; repeat for more",
           "NAME=IN/OUT/SEQUENCES");
  add_list("--higher-is-better", o->higher_is_better, "A metric of which more is better; repeat for more", "METRIC");
  return [o](const VerbInput& in) { run_import(*o, in); };
}

}  // namespace tangram
