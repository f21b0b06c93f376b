#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tangram {

/// A limit as a config spells it: absolute, or a part or a multiple of the teacher's same figure.
struct Limit {
  double value = 0;
  bool relative = false;  ///< value counts teachers: `60%` is 0.6, `2.0x` is 2

  double of(double teacher) const { return relative ? value * teacher : value; }
  bool operator==(const Limit&) const = default;
};

/// What `text` spells, or nothing if it is not wholly one finite value that fits.
std::optional<double> parse_number(std::string_view text);    ///< 3, -0.5, 1e-4
std::optional<int64_t> parse_count(std::string_view text);    ///< an integer: 262144, 1e9, 1.5e6
std::optional<double> parse_fraction(std::string_view text);  ///< 0.2, 20%
std::optional<double> parse_bytes(std::string_view text);     ///< 4096, 512 MiB, 80GB (B, kB to TB, KiB to TiB)
std::optional<double> parse_seconds(std::string_view text);   ///< 2.5, 250 us, 30 ms, 10 s, 5 min, 1 h

std::optional<double> parse_amount(std::string_view text);  ///< 2500, 5.2k, 49G, as format_count writes it

/// `text` as a percentage or a multiple of the teacher (60%, 2.0x), else as `absolute` reads it.
std::optional<Limit> parse_limit(std::string_view text, std::optional<double> (*absolute)(std::string_view));

/// For people: three significant digits and the unit.
std::string format_bytes(double bytes);      ///< 512 B, 1.5 KiB, 80 GiB
std::string format_count(double count);      ///< 950, 1.59M, 262k
std::string format_seconds(double seconds);  ///< 250 us, 1.5 s, 4 min 10 s, 2 h 03 min

/// Four significant digits, rounded up, or down, and never past `value`: 60.01.
std::string four_digits(double value, bool up);

/// Shortest text that parse_number reads back as the same double; integers without an exponent up to 2^53.
std::string format_exact(double value);
std::string format_exact(const Limit& limit);

}  // namespace tangram
