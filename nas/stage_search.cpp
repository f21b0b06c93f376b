#include <algorithm>
#include <cmath>

#include "blocks/file.h"
#include "nas/architecture_file.h"
#include "nas/conflict_text.h"
#include "nas/found_students.h"
#include "nas/frontier_text.h"
#include "nas/limit_text.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/student_scorer.h"
#include "puzzle/baselines.h"
#include "puzzle/search.h"

namespace tangram {
namespace {

// Searches for one target and writes what it finds.
class TargetSearch {
 public:
  TargetSearch(const StageInput& in, const ScoreTable& table, const TargetConfig& target)
      : in_(in),
        table_(table),
        target_(target),
        constraints_(constraints_of(target)),
        servable_(servers_called(target.servable)) {}

  void run() {
    const std::string objective(kMetricNames[size_t(in_.config.score.objective)]);
    const bool rescored = in_.config.rescore.rounds > 0;
    const SearchResult found =
        find(objective, rescored ? target_.name + "-additive" : target_.name, in_.config.solutions.count);
    if (rescored) rescore(found, objective);
    for (const Metric metric : in_.config.baselines.objectives)
      find(std::string(kMetricNames[size_t(metric)]),
           fmt::format("{}-by-{}", target_.name, kMetricNames[size_t(metric)]), 1);
    if (!in_.config.solutions.frontier.empty()) trace(objective);
    const Problem& problem = found.table.problem;
    const BaselinesConfig& baselines = in_.config.baselines;
    if (baselines.greedy) keep(found, greedy(problem), "greedy", objective, target_.name + "-greedy");
    if (baselines.uniform) keep(found, uniform(problem), "uniform", objective, target_.name + "-uniform");
    if (baselines.largest_parameter)
      keep(found, largest_parameter(problem), "largest_parameter", objective, target_.name + "-largest-parameter");
    for (int64_t i = 0; i < baselines.random; ++i)
      keep(found, random_feasible(problem, in_.config.seed, uint64_t(i)), "random", objective,
           fmt::format("{}-random-{}", target_.name, i));
  }

 private:
  SearchRequest request(const std::string& metric, int64_t count) const {
    return {.metric = metric,
            .constraints = constraints_,
            .rules = rules_of(target_, table_.layer_count),
            .most_variants = target_.most_variants,
            .servable = servable_,
            .solver = {.count = count, .min_difference = in_.config.solutions.min_difference}};
  }

  SearchResult find(const std::string& metric, const std::string& name, int64_t count) {
    const SearchResult found = search(table_, request(metric, count));
    if (!found.table.left_out.empty())
      in_.console.say("search {}: {} replacements without a finite score or cost are left out", name,
                      found.table.left_out.size());
    check_answered(found, fmt::format("{}: '{}'", place_of(in_.config, "constraints"), target_.name));
    if (found.solved.status == SolveStatus::infeasible) answer_infeasible(found, metric, "limits");
    for (size_t i = 0; i < found.solved.solutions.size(); ++i)
      write(found, found.solved.solutions[i], "mip", metric, i == 0 ? name : fmt::format("{}-{}", name, i + 1));
    return found;
  }

  // The nearest student is kept for people to look at: no stage goes on from it.
  [[noreturn]] void answer_infeasible(const SearchResult& found, const std::string& metric,
                                      std::string_view limits) const {
    if (std::optional<ChosenArchitecture> nearest = nearest_student(table_, found, metric)) {
      nearest->name = target_.name + "-nearest", nearest->target = target_.name, nearest->method = "nearest";
      nearest->servable = server_names(servable_);
      const std::filesystem::path path = architecture_path(in_.run_dir, nearest->name);
      write_architecture(path, *nearest);
      in_.console.say("search {}: the nearest student, which does not keep the limits, is in {}", target_.name,
                      path.lexically_relative(in_.run_dir).string());
    }
    throw Error(fmt::format("{}: no student keeps the {} of '{}'{}:\n{}", place_of(in_.config, "constraints"), limits,
                            target_.name, found.table.problem.rules.empty() ? "" : " and its rules",
                            conflict_text(table_, found, metric)),
                Failure::infeasible);
  }

  // The best student for every limit on a quantity within the target's other limits, by the sum of scores.
  void trace(const std::string& metric) {
    const Constraint moved = parse_moved_limit(in_.config.solutions.frontier);
    SearchRequest others = request(metric, 1);
    std::erase_if(others.constraints,
                  [&](const Constraint& c) { return c.quantity == moved.quantity && c.scenario == moved.scenario; });
    const TableFrontier traced = trace_frontier(table_, others, moved, {.points = in_.config.solutions.points});
    if (const auto found = why_empty(table_, traced, others, moved,
                                     fmt::format("{}: '{}'", place_of(in_.config, "solutions.frontier"), target_.name)))
      answer_infeasible(*found, metric, "other limits");
    const std::filesystem::path path = frontier_path(in_.run_dir, target_.name);
    std::filesystem::create_directories(path.parent_path());
    write_file_atomically(path, frontier_json(table_, traced, metric));
    in_.console.say("search {}: frontier of {} points, {}, in {}", target_.name, traced.frontier.points.size(),
                    traced.frontier.is_proven ? "all proven" : "not all proven",
                    path.lexically_relative(in_.run_dir).string());
  }

  // The additive student, others that differ from it, and what simpler searches give.
  std::vector<std::vector<int64_t>> first_students(const SearchResult& found) const {
    const Problem& problem = found.table.problem;
    std::vector<std::vector<int64_t>> students;
    const auto add = [&](const SolveResult& result) {
      for (const Solution& s : result.solutions) students.push_back(rows_of(problem, s));
    };
    add(found.solved);
    add(solve(problem,
              {.count = in_.config.rescore.candidates, .min_difference = in_.config.solutions.min_difference}));
    add(greedy(problem)), add(uniform(problem)), add(largest_parameter(problem));
    constexpr uint64_t kRandom = 10;
    for (uint64_t i = 0; i < kRandom; ++i) add(random_feasible(problem, in_.config.seed, i));
    return students;
  }

  // From the best of the first students on, by scores in the context of whole students; see puzzle/context_search.h.
  void rescore(const SearchResult& found, const std::string& metric) {
    StudentScorer scorer(in_, table_, in_.config.score.objective);
    int64_t tried = 0;
    const Problem& problem = found.table.problem;
    const ContextResult better = search_in_context(
        table_, problem, first_students(found),
        {.rounds = in_.config.rescore.rounds, .candidates = in_.config.rescore.candidates},
        [&](std::span<const int64_t> student, std::span<const std::vector<int64_t>> others) {
          return scorer.measure(student, others);
        },
        [&](const ContextRound& round) {
          in_.console.say("search {}: {}. {} candidates, the first with {} subblocks exchanged: {:.6g} measured, {}",
                          target_.name, ++tried, round.measured.size(), round.slots_changed, round.best,
                          round.accepted ? "better" : "no better");
        });
    in_.console.say(
        "search {}: {} measured {:.6g} of the additive student, {:.6g} of the best of {} to begin with, {:.6g} after "
        "re-scoring in context",
        target_.name, metric, better.before[0], *std::min_element(better.before.begin(), better.before.end()),
        better.before.size(), better.after);
    ChosenArchitecture chosen = student_in_context(table_, problem, better, metric);
    chosen.name = chosen.target = target_.name, chosen.method = "mip_in_context";
    chosen.scenarios = scenario_names(table_, found.scenarios);
    chosen.servable = server_names(servable_);
    write_architecture(architecture_path(in_.run_dir, chosen.name), chosen);
  }

  // A baseline that finds nothing is named, and the others go on.
  void keep(const SearchResult& found, const SolveResult& result, const std::string& method, const std::string& metric,
            const std::string& name) {
    if (result.solutions.empty()) return in_.console.say("search: {} finds no student under the limits", name);
    write(found, result.solutions[0], method, metric, name);
  }

  void write(const SearchResult& found, const Solution& solution, const std::string& method, const std::string& metric,
             const std::string& name) {
    ChosenArchitecture chosen = student_of(table_, found.table.problem, solution, metric);
    chosen.name = name, chosen.target = target_.name, chosen.method = method;
    chosen.proven = chosen.proven && method == "mip";
    chosen.scenarios = scenario_names(table_, found.scenarios);
    chosen.servable = server_names(servable_);
    write_architecture(architecture_path(in_.run_dir, name), chosen);
  }

  const StageInput& in_;
  const ScoreTable& table_;
  const TargetConfig& target_;
  std::vector<Constraint> constraints_;
  std::vector<const Server*> servable_;
};

}  // namespace

std::vector<std::filesystem::path> run_search(const StageInput& in) {
  const ScoreTable table = read_scores(scores_path(in.run_dir));
  const std::filesystem::path folder = architecture_path(in.run_dir, "any").parent_path();
  const std::filesystem::path frontiers = frontier_path(in.run_dir, "any").parent_path();
  for (const std::filesystem::path& old : {folder, frontiers})
    std::filesystem::remove_all(old);  // those of an earlier search are not this one's
  std::filesystem::create_directories(folder);
  if (in.config.constraints.empty())
    throw bad_input("{}: no constraints; give at least one limit to search under", place_of(in.config, "constraints"));
  Progress progress(in.console, "search", "targets", double(in.config.constraints.size()));
  for (size_t i = 0; i < in.config.constraints.size(); ++i) {
    TargetSearch(in, table, in.config.constraints[i]).run();
    progress.update(double(i + 1));
  }
  std::vector<std::filesystem::path> outputs = {folder};
  if (!in.config.solutions.frontier.empty())
    for (const TargetConfig& target : in.config.constraints) outputs.push_back(frontier_path(in.run_dir, target.name));
  return outputs;
}

}  // namespace tangram
