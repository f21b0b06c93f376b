#include <CLI/CLI.hpp>
#include <memory>

#include "kernels/error.h"
#include "nas/inspect.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string path, metric;
};

void run_inspect(const Options& o, const VerbInput& in) {
  const fs::path path = o.path;
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error), is_scores = path.extension() == ".h5";
  if (!o.metric.empty() && !is_scores) throw bad_input("{}: --metric is for a score table", o.path);
  if (is_scores) return inspect_scores(path, o.metric, in);
  if (is_folder && fs::exists(path / "config.json", error)) return inspect_model(path, in);
  if (is_folder && fs::exists(path / "run.json", error)) return inspect_run(path, in);
  std::string found = "no such file or folder";
  if (is_folder)
    found = "neither config.json nor run.json is in it";
  else if (path.extension() == ".csv")
    found = fmt::format("a CSV file; first: tangram import-scores {} --out scores.h5", o.path);
  else if (fs::exists(path, error))
    found = "a file that is no score table";
  else if (error)
    found = error.message();
  throw bad_input("{}: {}; allowed: a model folder (with config.json), a score table (.h5), a run directory", o.path,
                  found);
}

}  // namespace

std::function<void(const VerbInput&)> add_inspect(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  app.add_option("PATH", o->path, "Model folder, score table (scores.h5) or run directory")->required();
  app.add_option("--metric", o->metric, "Of a score table: the metric to show instead of kl_divergence");
  return [o](const VerbInput& in) { run_inspect(*o, in); };
}

}  // namespace tangram
