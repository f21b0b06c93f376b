#pragma once
#include <optional>
#include <string_view>

#include "nas/units.h"
#include "puzzle/search.h"

namespace tangram {

/// How an absolute limit on a quantity is spelled.
struct LimitSpelling {
  std::optional<double> (*parse)(std::string_view text);
  std::string_view example;  ///< for messages: `bytes such as 60 GiB`
};
LimitSpelling spelling_of(Quantity quantity);

/// A limit as the command line spells it: `memory=80GiB`, `throughput>=5000`, `chat.latency<=3s`, `parameters=60%`. In
/// front of the quantity may stand a scenario, or a group of them; behind it `=`, or the sign that the quantity's
/// limits have anyway. Throws Error (bad_input) saying what is wrong and what is allowed.
Constraint parse_constraint(std::string_view text);

/// The quantity whose limit moves, as command line and config spell it: `memory`, `chat.latency`. Throws Error
/// (bad_input) naming the nearest known one.
Constraint parse_moved_limit(std::string_view text);

/// The rule for layers `12`, `0-3` or `all`. Throws Error (bad_input) for another text.
ChoiceRule parse_layers(std::string_view layers, int64_t layer_count, ChoiceRule rule);

/// A rule as the command line spells it: `0-3:attention=gqa_8`. Throws Error (bad_input) saying what is wrong.
ChoiceRule parse_rule(std::string_view text, bool forbidden, int64_t layer_count);

/// A figure with its unit, for people: `60 GiB`, `5.2k tokens/s`, `250 ms`.
std::string figure_text(std::string_view units, double value);

/// A bound in its unit that lets `value` through: rounded up, or else down, to four digits, as parse_limit reads it.
std::string bound_text(std::string_view units, double value, bool up);

}  // namespace tangram
