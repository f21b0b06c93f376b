#include "nas/model_options.h"

#include <CLI/CLI.hpp>

#include "blocks/checkpoint.h"
#include "blocks/gguf_model.h"
#include "nas/units.h"

namespace tangram {

void add_model_options(CLI::App& app, ModelOptions& options) {
  app.add_option("FOLDER", options.folder, "Model: a Hugging Face folder, or a .gguf file")->required();
  app.add_option("--dtype", options.dtype, "Compute in this type instead of the stored one")
      ->check(CLI::IsMember({"f32", "bf16"}));
}

Model load_model(const ModelOptions& options, Context& ctx) {
  std::optional<DType> dtype;
  if (!options.dtype.empty()) dtype = options.dtype == "bf16" ? DType::bf16 : DType::f32;
  if (!options.folder.ends_with(".gguf")) return move_model(load_model(options.folder, dtype), ctx.device, ctx);
  const Model model = load_gguf_model(options.folder);
  return move_model(dtype && *dtype != model.dtype ? copy_model(model, *dtype) : model, ctx.device, ctx);
}

CLI::Option* add_count(CLI::App& app, const std::string& name, int64_t& value, int64_t low,
                       const std::string& description) {
  const auto read = [name, low](std::string& text) -> std::string {
    const std::optional<int64_t> count = parse_count(text);
    if (!count || *count < low || *count > INT32_MAX)
      return fmt::format("'{}' is no whole number from {} to {}", text, low, INT32_MAX);
    text = std::to_string(*count);
    return "";
  };
  return app.add_option(name, value, description)->transform(CLI::Validator(read, "COUNT"))->capture_default_str();
}

}  // namespace tangram
