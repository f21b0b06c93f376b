#include "blocks/variant.h"

#include <charconv>
#include <cmath>

namespace tangram {

#define VARIANT(name) extern const Variant name;
#include "blocks/variants.inc"  // written by CMake: VARIANT(x) for every blocks/variants/x.cpp
#undef VARIANT

std::span<const Variant* const> all_variants() {
#define VARIANT(name) &name,
  static constexpr const Variant* kAll[] = {
#include "blocks/variants.inc"
  };
#undef VARIANT
  return kAll;
}

std::string_view name_of(Subblock subblock) { return subblock == Subblock::attention ? "attention" : "ffn"; }

std::string Choice::name() const {
  return variant->sized ? fmt::format("{}_{}", variant->name, size) : std::string(variant->name);
}

Choice teacher_choice(Subblock subblock, const ModelConfig& config) {
  return subblock == Subblock::attention
             ? parse_choice(subblock, fmt::format("gqa_{}", config.num_key_value_heads), config)
             : parse_choice(subblock, fmt::format("ffn_{}", config.intermediate_size), config);
}

template <class T>
static std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The FFN width that a ratio of the teacher's stands for.
static int64_t width_of_ratio(double ratio, const ModelConfig& config) {
  if (!(ratio > 0 && ratio <= 1)) throw bad_input("an FFN ratio is above 0 and at most 1, not {}", ratio);
  const int64_t width = config.intermediate_size;
  int64_t multiple = 256;
  while (multiple > 4 && (width % multiple != 0 || width < 16 * multiple)) multiple /= 2;
  const auto rounded = static_cast<int64_t>(std::llround(ratio * double(width) / double(multiple)));
  return ratio == 1 ? width : std::max<int64_t>(rounded, 1) * multiple;
}

Choice parse_choice(Subblock subblock, std::string_view text, const ModelConfig& config) {
  std::vector<std::string> known;
  const auto ratio = subblock == Subblock::ffn ? parse_number<double>(text) : std::nullopt;
  const std::string spelled = ratio ? fmt::format("ffn_{}", width_of_ratio(*ratio, config)) : std::string(text);
  for (const Variant* variant : all_variants()) {
    if (variant->subblock != subblock) continue;
    known.push_back(std::string(variant->name) + (variant->sized ? "_<size>" : ""));
    if (!variant->sized && spelled == variant->name) return {variant, 0};
    const std::string prefix = std::string(variant->name) + "_";
    if (!variant->sized || !spelled.starts_with(prefix)) continue;
    if (const auto size = parse_number<int64_t>(std::string_view(spelled).substr(prefix.size()))) {
      variant->check_size(config, *size);
      return {variant, *size};
    }
  }
  if (subblock == Subblock::ffn) known.push_back("a ratio such as 0.5");
  throw unknown_name(fmt::format("{} variant", name_of(subblock)), text, known);
}

int64_t projection_size(const Choice& choice, const ModelConfig& config) {
  int64_t rows = 0;
  for (const ParamSpec& p : choice.variant->params({config, choice.size}))
    if (p.input) rows += p.rows;
  return rows;
}

int64_t parameter_count(const Choice& choice, const ModelConfig& config) {
  int64_t count = 0;
  for (const ParamSpec& p : choice.variant->params({config, choice.size})) count += p.rows * p.cols;
  return count;
}

}  // namespace tangram
