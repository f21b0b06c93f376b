#pragma once
#include <fmt/format.h>

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tangram {

/// What kind of failure an Error is. The value is the exit code of the process.
enum class Failure {
  failed = 1,      ///< something broke: a full disk, a lost file, a bug
  bad_input = 2,   ///< usage, config or an input file is wrong; the message says what to change
  infeasible = 3,  ///< the constraints cannot be met
};

/// The one exception of this project.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, Failure kind = Failure::failed)
      : std::runtime_error(message), failure(kind) {}
  Failure failure;
};

/// An Error for input that is refused at the border: `throw bad_input("{}: no tensor '{}'", path, name);`
template <class... Args>
Error bad_input(fmt::format_string<Args...> format, Args&&... args) {
  return Error(fmt::format(format, std::forward<Args>(args)...), Failure::bad_input);
}

/// The element of `known` with the smallest edit distance to `name`; empty if none is close enough to be a slip.
std::string nearest_name(std::string_view name, std::span<const std::string> known);

/// An Error for a name that is not in `known`: "no <what> 'lineer'; did you mean 'linear'? known: linear, no_op".
Error unknown_name(std::string_view what, std::string_view name, std::span<const std::string> known);

namespace detail {
[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& message);
}

/// Throws Error with the place, the condition's text and a formatted message unless `condition` holds.
#define CHECK(condition, ...) \
  ((condition) ? void() : ::tangram::detail::check_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)))

}  // namespace tangram
