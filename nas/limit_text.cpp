#include "nas/limit_text.h"

#include <algorithm>
#include <array>
#include <vector>

#include "puzzle/table_frontier.h"

namespace tangram {

LimitSpelling spelling_of(Quantity quantity) {
  const std::string_view units = units_of(quantity);
  if (units == "bytes") return {parse_bytes, "bytes such as 60 GiB"};
  if (units == "s") return {parse_seconds, "a duration such as 3 s or 250 ms"};
  if (units == "tokens/s") return {parse_amount, "tokens per second such as 2500 or 2.5k"};
  return {parse_amount, "a count such as 49e9 or 49G"};
}

static Quantity quantity_called(std::string_view name) {
  std::vector<std::string> names;
  for (const Quantity q : kQuantities) {
    if (name_of(q) == name) return q;
    names.emplace_back(name_of(q));
  }
  throw unknown_name("quantity", name, names);
}

static bool is_least(Quantity quantity) { return quantity == Quantity::throughput; }

static std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

Constraint parse_constraint(std::string_view text) {
  const size_t sign = text.find_first_of("<>=");
  if (sign == std::string_view::npos || sign == 0)
    throw bad_input("limit '{}': write a quantity and its bound, such as memory=80GiB or chat.throughput>=5000", text);
  const size_t value_at = text.find_first_not_of("<>=", sign);
  const std::string_view comparison =
      text.substr(sign, value_at == std::string_view::npos ? value_at : value_at - sign);
  std::string_view name = trimmed(text.substr(0, sign));
  const std::string_view value = value_at == std::string_view::npos ? "" : trimmed(text.substr(value_at));
  Constraint constraint;
  if (const size_t dot = name.rfind('.'); dot != std::string_view::npos) {
    constraint.scenario = name.substr(0, dot);
    name.remove_prefix(dot + 1);
  }
  constraint.quantity = quantity_called(name);
  const std::string_view own = is_least(constraint.quantity) ? ">=" : "<=";
  if (comparison != "=" && comparison != own)
    throw bad_input("limit '{}': {} has {} limit; write {}{}{} or {}={}", text, name,
                    is_least(constraint.quantity) ? "a lower" : "an upper", name, own, value, name, value);
  const LimitSpelling spelling = spelling_of(constraint.quantity);
  const std::optional<Limit> limit = parse_limit(value, spelling.parse);
  if (!limit || !(limit->value > 0))
    throw bad_input("limit '{}': found '{}'; allowed: {}, or of the teacher's such as 60% or 0.6x", text, value,
                    spelling.example);
  constraint.bound = limit->value, constraint.relative = limit->relative;
  return constraint;
}

Constraint parse_moved_limit(std::string_view text) {
  if (text.empty() || text.find_first_of("<>=") != std::string_view::npos)
    throw bad_input("a frontier over '{}': write the quantity alone, such as memory or chat.latency", text);
  const Constraint parsed = parse_constraint(std::string(text) + "=1x");
  return moved_limit(parsed.quantity, parsed.scenario);
}

ChoiceRule parse_layers(std::string_view layers, int64_t layer_count, ChoiceRule rule) {
  const size_t dash = layers.find('-');
  const auto first = parse_count(layers.substr(0, dash)),
             last = dash == std::string_view::npos ? first : parse_count(layers.substr(dash + 1));
  if (layers == "all")
    rule.first_layer = 0, rule.last_layer = layer_count - 1;
  else if (first && last)
    rule.first_layer = *first, rule.last_layer = *last;
  else
    throw bad_input("found layers '{}'; write 12, 0-3 or all", layers);
  return rule;
}

ChoiceRule parse_rule(std::string_view text, bool forbidden, int64_t layer_count) {
  const size_t colon = text.find(':'), equals = text.find('=');
  if (colon == std::string_view::npos || equals == std::string_view::npos || equals < colon ||
      equals + 1 == text.size())
    throw bad_input("'{}': write layers, subblock and variant, such as 0-3:attention=gqa_8", text);
  ChoiceRule rule{.forbidden = forbidden};
  const std::string_view subblock = text.substr(colon + 1, equals - colon - 1);
  if (subblock == name_of(Subblock::attention))
    rule.attention = text.substr(equals + 1);
  else if (subblock == name_of(Subblock::ffn))
    rule.ffn = text.substr(equals + 1);
  else
    throw unknown_name("subblock", subblock, std::vector<std::string>{"attention", "ffn"});
  return parse_layers(text.substr(0, colon), layer_count, rule);
}

std::string figure_text(std::string_view units, double value) {
  if (units == "bytes") return format_bytes(value);
  if (units == "s") return format_seconds(value);
  return units == "tokens/s" ? format_count(value) + " tokens/s" : format_count(value);
}

std::string bound_text(std::string_view units, double value, bool up) {
  static constexpr std::array kBytes = {" B", " KiB", " MiB", " GiB", " TiB"};
  static constexpr std::array kSeconds = {" us", " ms", " s"};
  static constexpr std::array kCounts = {"", "k", "M", "G", "T", "P"};
  const auto text = [&](const auto& names, double first, double step) {
    size_t unit = 0;
    for (value /= first; value >= step && unit + 1 < names.size(); ++unit) value /= step;
    return four_digits(value, up) + names[unit];
  };
  if (units == "bytes") return text(kBytes, 1, 1024);
  if (units == "s") return text(kSeconds, 1e-6, 1000);
  return text(kCounts, 1, 1000) + (units == "tokens/s" ? " tokens/s" : "");
}

}  // namespace tangram
