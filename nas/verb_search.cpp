#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "nas/conflict_text.h"
#include "nas/evaluation_file.h"
#include "nas/frontier_text.h"
#include "nas/limit_text.h"
#include "nas/model_verbs.h"
#include "puzzle/outliers.h"
#include "puzzle/resample.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string scores, metric, out, frontier, min_difference = "20%";
  std::vector<std::string> limits, required, forbidden;
  int64_t solutions = 1, most_variants = 0, points = 100, refine = 0, resamples = 0;
  uint64_t seed = 0;
  bool supported = false;
  double seconds = 3600;
};

// The metric that is searched by unless another is asked for.
std::string metric_of(const ScoreTable& table, const Options& o) {
  if (!o.metric.empty()) return table.metrics[metric_index(table, o.metric)].name;
  if (table.metrics.empty()) throw bad_input("{}: no metric in the table: nothing has been scored", o.scores);
  for (const TableMetric& metric : table.metrics)
    if (metric.name == "kl_divergence") return metric.name;
  return table.metrics[0].name;
}

SearchRequest request_of(const ScoreTable& table, const Options& o) {
  SearchRequest request{.metric = metric_of(table, o)};
  for (const std::string& text : o.limits) request.constraints.push_back(parse_constraint(text));
  for (const std::string& text : o.required) request.rules.push_back(parse_rule(text, false, table.layer_count));
  for (const std::string& text : o.forbidden) request.rules.push_back(parse_rule(text, true, table.layer_count));
  request.most_variants = o.most_variants;
  constexpr double kMostSeconds = 1e9;
  if (!(o.seconds > 0 && o.seconds <= kMostSeconds))
    throw bad_input("--seconds {}: must be above 0, and at most {:.0e}", o.seconds, kMostSeconds);
  const std::optional<double> difference = parse_fraction(o.min_difference);
  if (!difference || *difference < 0 || *difference > 1)
    throw bad_input("--min-difference {}: must be a part of the layers such as 20%", o.min_difference);
  request.solver = {.count = o.solutions, .min_difference = *difference, .seconds_at_most = o.seconds};
  return request;
}

/// What is wrong with the table's numbers, counted.
struct Oddities {
  size_t without_score = 0, without_cost = 0, outliers = 0;
};

Oddities oddities_of(const ScoreTable& table, const SearchResult& found, const std::string& metric) {
  const size_t m = metric_index(table, metric);
  const std::vector<double> losses = losses_of(table, m);
  Oddities odd;
  for (const int64_t r : found.table.left_out)
    ++(std::isfinite(losses[static_cast<size_t>(r)]) ? odd.without_cost : odd.without_score);
  const std::vector<bool> outliers = outliers_of(table, losses);
  odd.outliers = static_cast<size_t>(std::count(outliers.begin(), outliers.end(), true));
  return odd;
}

// Every figure of a student in the scenarios that were searched in, beside the teacher's and the limit, and about what
// the sum of scores would lose if the limit were a hundredth looser, by its price.
Table figure_table(const ScoreTable& table, const SearchResult& found, const Solution& solution) {
  Table text{.header = {"figure", "student", "of the teacher's", "limit", "1 % looser saves"}, .rows = {}};
  const std::vector<int64_t> rows = rows_of(found.table.problem, solution), teacher = teacher_rows(table);
  const auto add = [&](Quantity q, size_t s) {
    const double value = figure(table, rows, q, s), own = figure(table, teacher, q, s);
    if (!std::isfinite(value)) return;
    const double error = figure_error(table, rows, q, s);
    std::string name(name_of(q)), limit, saves;
    if (q != Quantity::parameters) name += fmt::format(" ({})", table.scenarios[s].name);
    const std::vector<LinearLimit>& limits = found.table.problem.limits;
    for (size_t k = 0; k < limits.size(); ++k) {
      if (limits[k].name != name) continue;
      limit = figure_text(units_of(q), shown(limits[k], limits[k].maximum));
      if (k < solution.prices.size()) saves = fmt::format("{:.3g}", 0.01 * limits[k].maximum * solution.prices[k]);
    }
    text.rows.push_back(
        {name, figure_text(units_of(q), value) + (error > 0 ? fmt::format(" +- {:.0f} %", 100 * error) : std::string()),
         own > 0 ? fmt::format("{:.1f} %", 100 * value / own) : "", limit, saves});
  };
  add(Quantity::parameters, 0);
  for (const size_t s : found.scenarios)
    for (const Quantity q : kQuantities)
      if (q != Quantity::parameters) add(q, s);
  return text;
}

std::string gap_text(const Solution& s) {
  return is_proven(s) ? "proven best" : fmt::format("nothing better than {:.6g} less exists", s.objective - s.bound);
}

void print_text(const ScoreTable& table, const SearchRequest& request, const SearchResult& found, const Options& o,
                const VerbInput& in) {
  const TableMetric& metric = table.metrics[metric_index(table, request.metric)];
  const Oddities odd = oddities_of(table, found, request.metric);
  if (odd.without_score + odd.without_cost > 0)
    fmt::print(in.out, "left out: {} replacements without a finite {}, {} without a cost that is limited\n",
               odd.without_score, request.metric, odd.without_cost);
  if (odd.outliers > 0)
    fmt::print(in.out, "{} scores are far worse than the same variant's in most layers; they count as they are\n",
               odd.outliers);
  if (found.batch_choices > 1)
    for (const size_t s : found.scenarios)
      fmt::print(in.out, "{}: the best of {} choices of batch sizes\n", table.scenarios[s].name, found.batch_choices);
  const std::vector<Solution>& solutions = found.solved.solutions;
  for (size_t i = 0; i < solutions.size(); ++i) {
    const ChosenArchitecture student = student_of(table, found.table.problem, solutions[i], request.metric);
    fmt::print(in.out, "\nstudent {} of {}: {} {:.6g} as a sum of scores (teacher {:.6g}), {}\n\n{}\n{}", i + 1,
               solutions.size(), metric.name, predicted(metric, solutions[i]), metric.teacher, gap_text(solutions[i]),
               format_table(figure_table(table, found, solutions[i])), format_table(block_table(student)));
  }
  if (std::ssize(solutions) < o.solutions)
    fmt::print(in.out, "\n{} students that differ enough {}\n", solutions.size(),
               found.solved.status == SolveStatus::optimal ? "are all there are" : "were found in time");
}

// What one more unit of each limit saves; of a least throughput, one more second for all its tokens.
nlohmann::ordered_json prices_of(const Problem& problem, const Solution& solution) {
  nlohmann::ordered_json prices = nlohmann::ordered_json::object();
  for (size_t k = 0; k < solution.prices.size(); ++k) prices[problem.limits[k].name] = solution.prices[k];
  return prices;
}

void print_json(const ScoreTable& table, const SearchRequest& request, const SearchResult& found,
                const std::optional<Resampled>& again, const VerbInput& in) {
  const Oddities odd = oddities_of(table, found, request.metric);
  nlohmann::ordered_json json = {
      {"status", found.solved.status == SolveStatus::optimal ? "optimal" : "feasible"},
      {"metric", request.metric},
      {"proven", found.solved.status == SolveStatus::optimal},
      {"left_out", {{"without_score", odd.without_score}, {"without_cost", odd.without_cost}}},
      {"outliers", odd.outliers},
      {"scenarios", nlohmann::ordered_json::array()},
      {"students", nlohmann::ordered_json::array()}};
  for (const size_t s : found.scenarios) json["scenarios"].push_back(table.scenarios[s].name);
  for (const Solution& solution : found.solved.solutions) {
    const ChosenArchitecture student = student_of(table, found.table.problem, solution, request.metric);
    nlohmann::ordered_json one = {
        {"objective", solution.objective}, {"bound", solution.bound},
        {"proven", student.proven},        {"prices", prices_of(found.table.problem, solution)},
        {"predicted", student.predicted},  {"blocks", blocks_json(student)}};
    json["students"].push_back(one);
  }
  if (again) json["resampled"] = {{"samples", again->samples}, {"proven", again->proven}, {"changed", again->changed}};
  fmt::print(in.out, "{}\n", json.dump(2));
}

void write_student(ChosenArchitecture student, const std::string& target, const std::string& name,
                   const fs::path& folder, const std::string& method = "mip") {
  student.target = target, student.method = method, student.name = name;
  write_architecture(folder / (name + ".yaml"), student);
}

// That nothing keeps all that is asked is an answer like others, and told in the same places; only the exit code is
// another.
[[noreturn]] void answer_infeasible(const Options& o, const ScoreTable& table, const SearchRequest& request,
                                    const SearchResult& found, const VerbInput& in) {
  if (in.json) fmt::print(in.out, "{}\n", conflict_json(table, found, request.metric).dump(2));
  std::string message =
      fmt::format("{}: no student keeps the limits{}", o.scores, request.rules.empty() ? "" : " and the rules");
  if (!in.json) message += ":\n" + conflict_text(table, found, request.metric);
  const std::optional<ChosenArchitecture> nearest = nearest_student(table, found, request.metric);
  if (!o.out.empty() && nearest) {
    write_student(*nearest, "student", "nearest", o.out, "nearest");
    in.console.say("the nearest student, which does not keep the limits, is in {}",
                   (fs::path(o.out) / "nearest.yaml").string());
  }
  throw Error(message, Failure::infeasible);
}

void write_students(const ScoreTable& table, const SearchRequest& request, const SearchResult& found,
                    const fs::path& folder) {
  for (size_t i = 0; i < found.solved.solutions.size(); ++i) {
    ChosenArchitecture student = student_of(table, found.table.problem, found.solved.solutions[i], request.metric);
    student.scenarios = scenario_names(table, found.scenarios);
    write_student(student, "student", i == 0 ? "student" : fmt::format("student-{}", i + 1), folder);
  }
}

// Each student once, however many limits it is the best for.
void write_frontier_students(const ScoreTable& table, const TableFrontier& traced, const std::string& metric,
                             const fs::path& folder) {
  const FrontierPoint* last = nullptr;
  int count = 0;
  for (const FrontierPoint& point : traced.frontier.points) {
    if (last && last->problem == point.problem && last->solution.entries == point.solution.entries) continue;
    ChosenArchitecture student = student_of(table, traced.problems[point.problem], point.solution, metric);
    student.scenarios = scenario_names(table, traced.choices[point.problem]);
    write_student(student, "frontier", fmt::format("frontier-{:03}", ++count), folder);
    last = &point;
  }
}

void run_frontier(const Options& o, const ScoreTable& table, const SearchRequest& request, const VerbInput& in) {
  const Constraint moved = parse_moved_limit(o.frontier);
  const TableFrontier traced =
      trace_frontier(table, request, moved, {.points = o.points, .supported = o.supported, .refine = o.refine});
  if (const auto found = why_empty(table, traced, request, moved, o.scores))
    answer_infeasible(o, table, request, *found, in);
  if (in.json)
    fmt::print(in.out, "{}", frontier_json(table, traced, request.metric));
  else
    fmt::print(in.out, "{}", format_table(frontier_table(table, traced, request.metric)));
  if (o.out.empty()) return;
  write_frontier_students(table, traced, request.metric, o.out);
  in.console.say("architectures are in {}", o.out);
}

// How sure each layer's choice is, where scores are known to their standard errors.
Resampled resample_scores(const Options& o, const ScoreTable& table, const SearchRequest& request,
                          const SearchResult& found) {
  const size_t m = metric_index(table, request.metric);
  std::vector<double> errors;
  for (const Entry& entry : found.table.problem.entries)
    errors.push_back(table.rows[static_cast<size_t>(entry.row)].standard_errors[m]);
  return resample(found.table.problem, found.solved.solutions[0], errors, {.samples = o.resamples, .seed = o.seed});
}

void print_resampled(const Resampled& again, const VerbInput& in) {
  Table text{.header = {"layer", "choice changes"}, .rows = {}};
  for (size_t layer = 0; layer < again.changed.size(); ++layer)
    if (again.changed[layer] > 0)
      text.rows.push_back({fmt::format("{}", layer), fmt::format("{:.0f} %", 100 * again.changed[layer])});
  fmt::print(in.out, "\nof {} searches with scores drawn anew within their standard errors, {} proven; layers that ",
             again.samples, again.proven);
  text.rows.empty() ? fmt::print(in.out, "change: none\n") : fmt::print(in.out, "change\n\n{}", format_table(text));
}

// Options that would change nothing are a misunderstanding, and are said to be.
void check_options(const Options& o, const CLI::App& app) {
  const auto given = [&](const char* name) { return app.count(name) > 0; };
  const bool is_frontier = !o.frontier.empty();
  for (const char* name : {"--solutions", "--min-difference"})
    if (is_frontier && given(name))
      throw bad_input("{} with --frontier: a frontier has one student for each limit; leave one of the two out", name);
  for (const char* name : {"--resample", "--seed"})
    if (is_frontier && given(name))
      throw bad_input(
          "{} with --frontier: only one student's choices are drawn anew; give the limit it is to keep, "
          "such as --limit {}=60%, in place of --frontier",
          name, o.frontier);
  for (const char* name : {"--points", "--supported", "--refine"})
    if (!is_frontier && given(name))
      throw bad_input("{} is of a frontier; say over which quantity, such as --frontier memory", name);
  if (!is_frontier && given("--seed") && o.resamples == 0)
    throw bad_input("--seed is of drawing scores anew; say how often, such as --resample 100");
}

void check_is_table(const std::string& path) {
  if (!path.ends_with(".csv")) return;
  throw bad_input("{0}: a CSV file, not a score table; first: tangram import-scores {0} --out scores.h5", path);
}

void run_search_verb(const Options& o, const VerbInput& in) {
  check_is_table(o.scores);
  const ScoreTable table = read_scores(o.scores);
  const SearchRequest request = request_of(table, o);
  if (!in.json) fmt::print(in.out, "{}", disturbance_text(table));
  if (!o.frontier.empty()) return run_frontier(o, table, request, in);
  const SearchResult found = search(table, request);
  check_answered(found, o.scores);
  if (found.solved.status == SolveStatus::infeasible) answer_infeasible(o, table, request, found, in);
  std::optional<Resampled> again;
  if (o.resamples > 0) again = resample_scores(o, table, request, found);
  if (in.json) {
    print_json(table, request, found, again, in);
  } else {
    print_text(table, request, found, o, in);
    if (again) print_resampled(*again, in);
  }
  if (o.out.empty()) return;
  write_students(table, request, found, o.out);
  in.console.say("architectures are in {}", o.out);
}

}  // namespace

std::function<void(const VerbInput&)> add_search(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  const auto add_list = [&](const char* name, std::vector<std::string>& value, const char* help, const char* type) {
    app.add_option(name, value, help)
        ->type_name(type)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  app.add_option("SCORES", o->scores, "Score table, such as the scores.h5 of a run")->required();
  add_list("--limit", o->limits,
           "A limit: memory=80GiB, chat.throughput>=5000, latency<=3s, parameters=60% (of the teacher's); without a "
           "scenario it holds in each; repeat for more",
           "LIMIT");
  app.add_option("--metric", o->metric, "Metric to make best instead of kl_divergence");
  add_list("--require", o->required, "A variant that layers must have: 0-3:attention=gqa_8; repeat for more", "RULE");
  add_list("--forbid", o->forbidden, "A variant that layers must not have: all:ffn=no_op; repeat for more", "RULE");
  app.add_option("--most-variants", o->most_variants,
                 "Different subblock variants that a student may have, since each may be a kernel of its own; 0: any")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--solutions", o->solutions, "Students to find")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--min-difference", o->min_difference, "Part of the layers in which any two of them differ")
      ->capture_default_str();
  app.add_option("--seconds", o->seconds, "Time for each student; running out of it is said")->capture_default_str();
  app.add_option(
         "--frontier", o->frontier,
         "Instead of one student, the best for every value of this quantity's limit: memory, chat.latency; where the "
         "batch size is free, each at its best one")
      ->type_name("QUANTITY");
  app.add_option("--points", o->points, "Of the frontier, evenly spaced")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  app.add_flag("--supported", o->supported, "Of the frontier: also every point that is best for some price");
  app.add_option("--refine", o->refine, "Further points of the frontier, where neighbours differ most")
      ->check(CLI::Range(0, 100000));
  app.add_option("--resample", o->resamples,
                 "Searches with scores drawn anew within their standard errors: how sure each layer's choice is")
      ->check(CLI::Range(0, 100000));
  app.add_option("--seed", o->seed, "Of the drawing");
  app.add_option("--out", o->out,
                 "Folder for the students as architecture files; of a frontier each different one; where the limits "
                 "cannot be met nearest.yaml, the student that comes nearest");
  return [o, &app](const VerbInput& in) {
    check_options(*o, app);
    run_search_verb(*o, in);
  };
}

}  // namespace tangram
