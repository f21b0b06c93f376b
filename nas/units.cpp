#include "nas/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <span>

namespace tangram {
namespace {

/// `multiply` or `divide` is 1, so that one rounding makes 57% the same double as 0.57.
struct Unit {
  std::string_view name;
  double multiply, divide = 1;
};

constexpr Unit kByteUnits[] = {
    {"B", 1},     {"kB", 1e3},     {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},
    {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
};
constexpr Unit kTimeUnits[] = {{"us", 1, 1e6}, {"ms", 1, 1e3}, {"s", 1}, {"min", 60}, {"h", 3600}};
constexpr Unit kAmountUnits[] = {{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15}};
constexpr Unit kFractionUnits[] = {{"%", 1, 100}};

/// A number, optionally followed by spaces and one of `units`.
std::optional<double> parse_quantity(std::string_view text, std::span<const Unit> units) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value)) return std::nullopt;
  text.remove_prefix(end - text.data());
  if (text.empty()) return value;
  while (text.starts_with(' ')) text.remove_prefix(1);
  for (const Unit& unit : units)
    if (text == unit.name) return value * unit.multiply / unit.divide;
  return std::nullopt;
}

/// Three significant digits: 1.59, 15.9, 159, 1590.
std::string three_digits(double value) {
  const double size = std::abs(value);
  std::string text = fmt::format("{:.{}f}", value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

std::optional<double> parse_number(std::string_view text) { return parse_quantity(text, {}); }

std::optional<int64_t> parse_count(std::string_view text) {
  const std::optional<double> value = parse_number(text);
  // Doubles above 2^53 skip integers.
  if (!value || *value != std::floor(*value) || std::abs(*value) > 0x1p53) return std::nullopt;
  return static_cast<int64_t>(*value);
}

std::optional<double> parse_fraction(std::string_view text) { return parse_quantity(text, kFractionUnits); }
std::optional<double> parse_bytes(std::string_view text) { return parse_quantity(text, kByteUnits); }
std::optional<double> parse_seconds(std::string_view text) { return parse_quantity(text, kTimeUnits); }
std::optional<double> parse_amount(std::string_view text) { return parse_quantity(text, kAmountUnits); }

std::optional<Limit> parse_limit(std::string_view text, std::optional<double> (*absolute)(std::string_view)) {
  constexpr Unit kRelativeUnits[] = {{"%", 1, 100}, {"x", 1}};
  if (text.ends_with('%') || text.ends_with('x')) {
    const std::optional<double> value = parse_quantity(text, kRelativeUnits);
    return value ? std::optional(Limit{*value, true}) : std::nullopt;
  }
  const std::optional<double> value = absolute(text);
  return value ? std::optional(Limit{*value, false}) : std::nullopt;
}

std::string format_bytes(double bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  // 1023.5 rather than 1024: what would print as 1024 is the next unit's 1.
  for (; std::abs(bytes) >= 1023.5 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
  return fmt::format("{} {}", three_digits(bytes), kUnits[unit]);
}

std::string format_count(double count) {
  constexpr std::array kUnits = {"", "k", "M", "G", "T", "P"};
  size_t unit = 0;
  for (; std::abs(count) >= 999.5 && unit + 1 < kUnits.size(); ++unit) count /= 1000;
  return three_digits(count) + kUnits[unit];
}

std::string format_seconds(double seconds) {
  if (seconds < 0.9995e-3) return three_digits(seconds * 1e6) + " us";
  if (seconds < 0.9995) return three_digits(seconds * 1e3) + " ms";
  if (seconds < 59.95) return three_digits(seconds) + " s";
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  const int64_t minutes = std::llround(seconds / 60);
  return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
}

std::string four_digits(double value, bool up) {
  if (!(value > 0) || !std::isfinite(value)) return fmt::format("{}", value);
  const int decimals = std::max(0, 3 - static_cast<int>(std::floor(std::log10(value))));
  const double step = std::pow(10, decimals);
  // A product such as 0.57 * 100 may be off by a rounding, and is 57 all the same.
  double digits = std::round(value * step);
  if (std::abs(value * step - digits) > 1e-14 * digits)
    digits = up ? std::ceil(value * step) : std::floor(value * step);
  std::string text = fmt::format("{:.{}f}", digits / step, decimals);
  if (decimals == 0) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

std::string format_exact(double value) {
  if (value == std::floor(value) && std::abs(value) <= 0x1p53) return fmt::format("{:.0f}", value);
  return fmt::format("{}", value);
}

std::string format_exact(const Limit& limit) { return format_exact(limit.value) + (limit.relative ? "x" : ""); }

}  // namespace tangram
