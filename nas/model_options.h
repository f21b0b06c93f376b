#pragma once
#include <CLI/App.hpp>
#include <string>

#include "blocks/model.h"

namespace tangram {

/// The model that a verb works on.
struct ModelOptions {
  std::string folder;
  std::string dtype;  ///< f32, bf16; empty: as it is stored
};

/// Adds FOLDER and --dtype.
void add_model_options(CLI::App& app, ModelOptions& options);

/// Maps the model's files.
Model load_model(const ModelOptions& options, Context& ctx);

/// Adds an option that takes a whole number from `low` to 2^31 - 1, as people write it: 512, 1e6.
CLI::Option* add_count(CLI::App& app, const std::string& name, int64_t& value, int64_t low,
                       const std::string& description);

}  // namespace tangram
