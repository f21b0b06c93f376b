#pragma once
#include <CLI/App.hpp>
#include <cstdio>
#include <functional>
#include <span>
#include <string_view>

#include "kernels/tensor.h"
#include "nas/progress.h"

namespace tangram {

/// What every verb gets from the command line's common options.
struct VerbInput {
  Console& console;
  std::FILE* out;  ///< for the result
  Device device;   ///< where to compute
  int threads;     ///< 0: as many as the process may use
  bool json;       ///< the result as JSON
};

/// A verb that is no stage, such as `tangram inspect FOLDER`.
struct ModelVerb {
  std::string_view name, summary, example;
  /// Adds the verb's own options to `app` and returns what runs it after they were read. The options are read into
  /// variables that the returned function owns.
  std::function<void(const VerbInput&)> (*add)(CLI::App& app);
};

std::span<const ModelVerb> all_model_verbs();

// ModelVerb::add of each, in nas/verb_<name>.cpp.
std::function<void(const VerbInput&)> add_logits(CLI::App& app);
std::function<void(const VerbInput&)> add_generate(CLI::App& app);
std::function<void(const VerbInput&)> add_evaluate(CLI::App& app);
std::function<void(const VerbInput&)> add_bench(CLI::App& app);
std::function<void(const VerbInput&)> add_export(CLI::App& app);
std::function<void(const VerbInput&)> add_inspect(CLI::App& app);
std::function<void(const VerbInput&)> add_plan(CLI::App& app);
std::function<void(const VerbInput&)> add_search(CLI::App& app);
std::function<void(const VerbInput&)> add_import_scores(CLI::App& app);
std::function<void(const VerbInput&)> add_submit(CLI::App& app);
std::function<void(const VerbInput&)> add_status(CLI::App& app);
std::function<void(const VerbInput&)> add_doctor(CLI::App& app);

}  // namespace tangram
