#include <nlohmann/json.hpp>
#include <set>

#include "nas/found_students.h"
#include "nas/inspect.h"
#include "nas/run_directory.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/units.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

// What the search left behind; nothing before it has run.
std::vector<ChosenArchitecture> read_chosen(const fs::path& run_dir) {
  const fs::path folder = architecture_path(run_dir, "any").parent_path();
  return fs::exists(folder) ? read_architectures(folder) : std::vector<ChosenArchitecture>();
}

std::string figure_text(const std::string& name, double value) {
  if (name.ends_with("memory")) return format_bytes(value);
  if (name.ends_with("latency")) return format_seconds(value);
  if (name.ends_with("throughput")) return format_count(value) + "/s";
  return name == "parameters" ? format_count(value) : fmt::format("{:.5f}", value);
}

Table chosen_table(const std::vector<ChosenArchitecture>& chosen) {
  std::set<std::string> figures;
  for (const ChosenArchitecture& a : chosen)
    for (const auto& [figure, value] : a.predicted) figures.insert(figure);
  Table table{.header = {"architecture", "method", "by", "proven"}, .rows = {}};
  table.header.insert(table.header.end(), figures.begin(), figures.end());
  for (const ChosenArchitecture& a : chosen) {
    std::vector<std::string> cells{a.name, a.method, a.objective, a.proven ? "yes" : "no"};
    for (const std::string& figure : figures) {
      const auto found = a.predicted.find(figure);
      cells.push_back(found == a.predicted.end() ? "-" : figure_text(figure, found->second));
    }
    table.rows.push_back(cells);
  }
  return table;
}

nlohmann::ordered_json json_of(const ChosenArchitecture& a) {
  nlohmann::ordered_json json = {{"name", a.name},           {"target", a.target}, {"method", a.method},
                                 {"objective", a.objective}, {"proven", a.proven}, {"predicted", a.predicted}};
  json["blocks"] = blocks_json(a);
  return json;
}

}  // namespace

void inspect_run(const fs::path& run_dir, const VerbInput& in) {
  const SearchConfig config = read_search_config(run_dir / "config.yaml");
  const std::vector<ChosenArchitecture> chosen = read_chosen(run_dir);
  Table stages{.header = {"stage", "state"}, .rows = {}};
  for (const Stage& stage : all_stages()) {
    if (stage.is_part_of && !stage.is_part_of(config)) continue;
    const std::string reason = reason_incomplete(run_dir, stage.name);
    stages.rows.push_back({std::string(stage.name), reason.empty() ? "complete" : reason});
  }
  if (in.json) {
    nlohmann::ordered_json json = {{"kind", "run"}};
    for (const auto& row : stages.rows) json["stages"][row[0]] = row[1];
    json["architectures"] = nlohmann::ordered_json::array();
    for (const ChosenArchitecture& a : chosen) json["architectures"].push_back(json_of(a));
    fmt::print(in.out, "{}\n", json.dump(2));
    return;
  }
  fmt::print(in.out, "{}", format_table(stages));
  if (chosen.empty()) return;
  fmt::print(in.out, "\nArchitectures, with what was predicted of them\n\n{}", format_table(chosen_table(chosen)));
  for (const ChosenArchitecture& a : chosen)
    if (is_healed(a)) fmt::print(in.out, "\n{}\n\n{}", a.name, format_table(block_table(a)));
}

}  // namespace tangram
