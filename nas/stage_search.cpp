#include "nas/architecture_file.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/table.h"
#include "puzzle/baselines.h"
#include "puzzle/limits.h"
#include "puzzle/solver.h"

namespace tangram {
namespace {

// Searches for one target and writes what it finds.
class TargetSearch {
 public:
  TargetSearch(const StageInput& in, const ScoreTable& table, const ModelConfig& teacher, const TargetConfig& target)
      : in_(in), table_(table), teacher_(teacher), target_(target), constraints_(constraints_of(target)) {}

  void run() {
    const std::string objective(kMetricNames[size_t(in_.config.score.objective)]);
    search(objective, target_.name, in_.config.solutions.count);
    for (const Metric metric : in_.config.baselines.objectives)
      search(std::string(kMetricNames[size_t(metric)]),
             fmt::format("{}-by-{}", target_.name, kMetricNames[size_t(metric)]), 1);
    const TableProblem found = make_problem(table_, objective, constraints_);
    const BaselinesConfig& baselines = in_.config.baselines;
    if (baselines.greedy) keep(found, greedy(found.problem), "greedy", objective, target_.name + "-greedy");
    if (baselines.uniform) keep(found, uniform(found.problem), "uniform", objective, target_.name + "-uniform");
    if (baselines.largest_parameter)
      keep(found, largest_parameter(found.problem), "largest_parameter", objective,
           target_.name + "-largest-parameter");
    for (int64_t i = 0; i < baselines.random; ++i)
      keep(found, random_feasible(found.problem, in_.config.seed, uint64_t(i)), "random", objective,
           fmt::format("{}-random-{}", target_.name, i));
  }

 private:
  void search(const std::string& metric, const std::string& name, int64_t count) {
    const TableProblem found = make_problem(table_, metric, constraints_);
    if (!found.left_out.empty())
      in_.console.say("search {}: {} replacements without a finite score or cost are left out", name,
                      found.left_out.size());
    const SolveResult result =
        solve(found.problem, {.count = count, .min_difference = in_.config.solutions.min_difference});
    if (result.status == SolveStatus::infeasible)
      throw Error(fmt::format("{}: no student keeps the limits of '{}':\n{}", place_of(in_.config, "constraints"),
                              target_.name, explain(found.problem, result)),
                  Failure::infeasible);
    if (result.solutions.empty())
      throw Error(fmt::format("search {}: the solver ran out of time before it found a student", name));
    for (size_t i = 0; i < result.solutions.size(); ++i)
      write(found, result.solutions[i], "mip", metric, i == 0 ? name : fmt::format("{}-{}", name, i + 1));
  }

  // A baseline that finds nothing is named, and the others go on.
  void keep(const TableProblem& found, const SolveResult& result, const std::string& method, const std::string& metric,
            const std::string& name) {
    if (result.solutions.empty()) return in_.console.say("search: {} finds no student under the limits", name);
    write(found, result.solutions[0], method, metric, name);
  }

  void write(const TableProblem& found, const Solution& solution, const std::string& method, const std::string& metric,
             const std::string& name) {
    ChosenArchitecture chosen{.name = name,
                              .target = target_.name,
                              .method = method,
                              .objective = metric,
                              .proven = method == "mip" && solution.bound >= solution.objective,
                              .predicted = {},
                              .replacements = {}};
    std::vector<int64_t> rows;
    for (int32_t entry : solution.entries) {
      rows.push_back(found.problem.entries[size_t(entry)].row);
      chosen.replacements.push_back(replacement_of(table_.rows[size_t(rows.back())], teacher_));
    }
    chosen.predicted[metric] = predicted(table_.metrics[metric_index(table_, metric)], solution);
    chosen.predicted["parameters"] = figure(table_, rows, Quantity::parameters, 0);
    for (size_t s = 0; s < table_.scenarios.size(); ++s)
      for (const Quantity q : kQuantities)
        if (q != Quantity::parameters)
          chosen.predicted[fmt::format("{}.{}", table_.scenarios[s].name, name_of(q))] = figure(table_, rows, q, s);
    write_architecture(architecture_path(in_.run_dir, name), chosen);
  }

  const StageInput& in_;
  const ScoreTable& table_;
  const ModelConfig& teacher_;
  const TargetConfig& target_;
  std::vector<Constraint> constraints_;
};

}  // namespace

std::vector<std::filesystem::path> run_search(const StageInput& in) {
  const Model teacher = load_teacher(in.config, in.run_dir, in.config.distill.training.dtype);
  const ScoreTable table = read_scores(scores_path(in.run_dir));
  const std::filesystem::path folder = architecture_path(in.run_dir, "any").parent_path();
  std::filesystem::remove_all(folder);  // those of an earlier search are not this one's
  std::filesystem::create_directories(folder);
  if (in.config.constraints.empty())
    throw bad_input("{}: no constraints; give at least one limit to search under", place_of(in.config, "constraints"));
  Progress progress(in.console, "search", "targets", double(in.config.constraints.size()));
  for (size_t i = 0; i < in.config.constraints.size(); ++i) {
    TargetSearch(in, table, teacher.config, in.config.constraints[i]).run();
    progress.update(double(i + 1));
  }
  return {folder};
}

}  // namespace tangram
