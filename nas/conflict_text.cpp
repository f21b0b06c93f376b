#include "nas/conflict_text.h"

#include <cmath>

#include "nas/limit_text.h"

namespace tangram {
namespace {

// The part of the teacher's figure that a total comes to, as people think of it.
double part_of_teacher(const LinearLimit& limit, double total) {
  return shown(limit, total) / shown(limit, limit.teacher);
}

std::string at_scenarios(const ScoreTable& table, const std::vector<size_t>& scenarios) {
  return fmt::format("{}", fmt::join(scenario_names(table, scenarios), ", "));
}

std::string variants_text(int64_t count) {
  return fmt::format("at most {} different variant{}", count, count == 1 ? "" : "s");
}

// Limits, then the number of variants, then rules that exclude each other.
std::vector<std::string> conflicting(const Problem& problem, const SolveResult& solved) {
  std::vector<std::string> lines;
  for (size_t k = 0; k < solved.conflicts.size(); ++k)
    if (solved.conflicts[k].is_needed)
      lines.push_back(fmt::format("{}: {}", problem.limits[k].name, asked_text(problem.limits[k])));
  if (solved.variants_conflict.is_needed) lines.push_back(variants_text(problem.most_variants));
  for (size_t r = 0; r < solved.rule_conflicts.size(); ++r)
    if (solved.rule_conflicts[r].is_needed) lines.push_back(problem.rules[r]);
  return lines;
}

// What would do in place of one of them, all else kept.
std::vector<std::string> changes(const ScoreTable& table, const SearchResult& found) {
  const Problem& problem = found.table.problem;
  const SolveResult& solved = found.solved;
  const auto unproven = [](bool is_proven) { return is_proven ? "" : "; that less would not is not proven"; };
  std::vector<std::string> lines;
  for (size_t k = 0; k < solved.conflicts.size(); ++k) {
    const Conflict& conflict = solved.conflicts[k];
    if (!std::isfinite(conflict.smallest_with_others)) continue;
    lines.push_back(fmt::format("{}: {}{}{}", problem.limits[k].name,
                                relaxed_text(problem.limits[k], conflict.smallest_with_others),
                                found.batch_choices > 1 ? " at " + at_scenarios(table, found.relaxed_in[k]) : "",
                                unproven(conflict.is_proven)));
  }
  if (const VariantsConflict& variants = solved.variants_conflict; variants.fewest_with_others > 0)
    lines.push_back(variants_text(variants.fewest_with_others) + unproven(variants.is_proven));
  for (size_t r = 0; r < solved.rule_conflicts.size(); ++r)
    if (solved.rule_conflicts[r].is_enough) lines.push_back("without " + problem.rules[r]);
  return lines;
}

// Limits that no student keeps, whatever else is asked.
std::vector<std::string> out_of_reach(const Problem& problem, const SolveResult& solved) {
  std::vector<std::string> lines;
  for (size_t k = 0; k < solved.conflicts.size(); ++k) {
    const LinearLimit& limit = problem.limits[k];
    const double smallest = solved.conflicts[k].smallest;
    if (keeps(limit, smallest) || !std::isfinite(smallest)) continue;
    lines.push_back(fmt::format("{}: the {} of any student is {}", limit.name, limit.tokens > 0 ? "most" : "least",
                                relaxed_text(limit, smallest)));
  }
  return lines;
}

std::string list_text(const std::string& title, const std::vector<std::string>& lines) {
  std::string text = "\n" + title + ":";
  for (const std::string& line : lines) text += "\n  " + line;
  return text;
}

// How far the nearest student is beyond each limit, as a part of it; 0 if it keeps it.
double beyond(const LinearLimit& limit, double total) { return keeps(limit, total) ? 0 : total / limit.maximum - 1; }

std::string nearest_text(const SearchResult& found, const ChosenArchitecture& student) {
  const Problem& problem = found.table.problem;
  const Nearest& nearest = found.solved.nearest;
  Table figures{.header = {"figure", "asked for", "nearest student", "beyond"}, .rows = {}};
  for (size_t k = 0; k < problem.limits.size(); ++k) {
    const LinearLimit& limit = problem.limits[k];
    if (limit.moves) continue;
    const double total = nearest.solution[0].totals[k], off = beyond(limit, total);
    figures.rows.push_back({limit.name, asked_text(limit), figure_text(limit.units, shown(limit, total)),
                            off > 0 ? fmt::format("{:.3g} %", 100 * off) : "-"});
  }
  std::string text = fmt::format("\nthe nearest student is {:.3g} % beyond the limits", 100 * nearest.excess);
  if (nearest.bound < nearest.excess) text += fmt::format("; none within {:.3g} % is proven", 100 * nearest.bound);
  return text + "\n\n" + format_table(figures) + "\n" + format_table(block_table(student));
}

nlohmann::ordered_json finite_or_null(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

nlohmann::ordered_json limits_json(const ScoreTable& table, const SearchResult& found) {
  nlohmann::ordered_json limits = nlohmann::ordered_json::array();
  for (size_t k = 0; k < found.solved.conflicts.size(); ++k) {
    const LinearLimit& limit = found.table.problem.limits[k];
    if (limit.moves) continue;
    const Conflict& conflict = found.solved.conflicts[k];
    const bool has_relaxation = std::isfinite(conflict.smallest_with_others);
    const auto value = [&](double total) { return finite_or_null(std::isfinite(total) ? shown(limit, total) : total); };
    const auto part = [&](double total) {
      return finite_or_null(limit.teacher > 0 && std::isfinite(total) ? part_of_teacher(limit, total) : INFINITY);
    };
    limits.push_back({{"name", limit.name},
                      {"units", limit.units},
                      {"is", limit.tokens > 0 ? "at least" : "at most"},
                      {"asked", value(limit.maximum)},
                      {"asked_of_teacher", part(limit.maximum)},
                      {"in_conflict", conflict.is_needed},
                      {"any_student", value(conflict.smallest)},
                      {"relaxation", value(conflict.smallest_with_others)},
                      {"relaxation_of_teacher", part(conflict.smallest_with_others)},
                      {"relaxation_at", has_relaxation ? at_scenarios(table, found.relaxed_in[k]) : ""},
                      {"proven", conflict.is_proven}});
  }
  return limits;
}

nlohmann::ordered_json nearest_json(const SearchResult& found, const ChosenArchitecture& student) {
  const Nearest& nearest = found.solved.nearest;
  nlohmann::ordered_json over = nlohmann::ordered_json::object();
  for (size_t k = 0; k < found.table.problem.limits.size(); ++k)
    if (const LinearLimit& limit = found.table.problem.limits[k]; !limit.moves)
      over[limit.name] = beyond(limit, nearest.solution[0].totals[k]);
  return {{"excess", nearest.excess}, {"bound", nearest.bound},         {"proven", nearest.bound >= nearest.excess},
          {"beyond", over},           {"predicted", student.predicted}, {"blocks", blocks_json(student)}};
}

}  // namespace

std::string asked_text(const LinearLimit& limit) {
  std::string text = fmt::format("at {} {}", limit.tokens > 0 ? "least" : "most",
                                 figure_text(limit.units, shown(limit, limit.maximum)));
  if (limit.teacher > 0)
    text += fmt::format(" ({:.4g} % of the teacher's)", 100 * part_of_teacher(limit, limit.maximum));
  return text;
}

std::string relaxed_text(const LinearLimit& limit, double total) {
  const bool up = !(limit.tokens > 0);
  std::string text = bound_text(limit.units, shown(limit, total), up);
  if (limit.teacher > 0)
    text += fmt::format(" ({} % of the teacher's)", four_digits(100 * part_of_teacher(limit, total), up));
  return text;
}

std::optional<ChosenArchitecture> nearest_student(const ScoreTable& table, const SearchResult& found,
                                                  const std::string& metric) {
  if (found.solved.nearest.solution.empty()) return std::nullopt;
  ChosenArchitecture student = student_of(table, found.table.problem, found.solved.nearest.solution[0], metric);
  student.proven = false;
  student.scenarios = scenario_names(table, found.scenarios);
  return student;
}

std::string conflict_text(const ScoreTable& table, const SearchResult& found, const std::string& metric) {
  const Problem& problem = found.table.problem;
  const SolveResult& solved = found.solved;
  std::string text;
  if (!found.table.left_out.empty())
    text += fmt::format("\n{} replacements without a finite score or cost are left out", found.table.left_out.size());
  if (found.batch_choices > 1)
    text += fmt::format("\nof {} choices of batch sizes, {} comes nearest", found.batch_choices,
                        at_scenarios(table, found.scenarios));
  if (found.kv_heads_choices > 1)
    text += fmt::format("\nof {} numbers of KV heads for all full attention, {} comes nearest", found.kv_heads_choices,
                        found.kv_heads);
  const std::vector<std::string> together = conflicting(problem, solved), single = changes(table, found),
                                 beyond_reach = out_of_reach(problem, solved);
  if (!together.empty())
    text += list_text(fmt::format("{}{}", together.size() == 1 ? "this cannot be kept" : "these exclude each other",
                                  solved.conflicts_are_proven ? "" : " (that none of it can be spared is not proven)"),
                      together);
  if (!beyond_reach.empty()) text += list_text("out of reach, whatever else is asked", beyond_reach);
  if (single.empty())
    text += "\nno change to one of them alone would do";
  else
    text += list_text(single.size() == 1 ? "this change would do" : "any one of these changes alone would do", single);
  if (const auto student = nearest_student(table, found, metric))
    text += nearest_text(found, *student);
  else
    text += "\nno student at all keeps the rules and the number of variants, so that none is nearest";
  return text.substr(1);
}

nlohmann::ordered_json conflict_json(const ScoreTable& table, const SearchResult& found, const std::string& metric) {
  const Problem& problem = found.table.problem;
  const SolveResult& solved = found.solved;
  nlohmann::ordered_json json = {{"status", "infeasible"},
                                 {"metric", metric},
                                 {"proven", solved.conflicts_are_proven},
                                 {"left_out", found.table.left_out.size()},
                                 {"batch_choices", found.batch_choices},
                                 {"scenarios", scenario_names(table, found.scenarios)},
                                 {"limits", limits_json(table, found)},
                                 {"most_variants", nullptr},
                                 {"rules", nlohmann::ordered_json::array()},
                                 {"nearest", nullptr}};
  if (const VariantsConflict& variants = solved.variants_conflict; problem.most_variants > 0) {
    json["most_variants"] = {{"asked", problem.most_variants},
                             {"in_conflict", variants.is_needed},
                             {"relaxation", nullptr},
                             {"proven", variants.is_proven}};
    if (variants.fewest_with_others > 0) json["most_variants"]["relaxation"] = variants.fewest_with_others;
  }
  for (size_t r = 0; r < solved.rule_conflicts.size(); ++r)
    json["rules"].push_back({{"rule", problem.rules[r]},
                             {"in_conflict", solved.rule_conflicts[r].is_needed},
                             {"enough_without", solved.rule_conflicts[r].is_enough}});
  if (const auto student = nearest_student(table, found, metric)) json["nearest"] = nearest_json(found, *student);
  return json;
}

}  // namespace tangram
