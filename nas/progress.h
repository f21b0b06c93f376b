#pragma once
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>

#include "kernels/error.h"

namespace tangram {

/// Messages for the person at the terminal or the reader of a log. Results go elsewhere, to stdout and files.
class Console {
 public:
  /// `quiet` lets nothing through. `terminal` says that `out` can redraw a line.
  Console(std::FILE* out, bool terminal, bool quiet) : out_(out), terminal_(terminal), quiet_(quiet) {}

  template <class... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    line(fmt::format(format, std::forward<Args>(args)...));
  }
  void line(std::string_view text);
  /// On a terminal, shows `text` in place of the last status, below all lines; "" takes it away.
  void status(std::string_view text);

  bool terminal() const { return terminal_; }

 private:
  std::FILE* out_;
  bool terminal_, quiet_;
  bool has_status_ = false;
};

/// How far some work has come.
struct ProgressState {
  std::string_view label, unit;  ///< "distill", "tokens"
  double done = 0, total = 0;    ///< in units
  double started_at = 0;         ///< units that were done before the clock ran: a resumed run
  double seconds = 0;            ///< since then
  std::string_view note;         ///< such as "loss 0.123"
};

/// `distill: 45%, 1.23M of 2.62M tokens, 8.1k tokens/s, 2 min 52 s left, loss 0.123`, for a log.
std::string progress_line(const ProgressState& state);

/// The same with a bar, cut to `columns`.
std::string progress_bar(const ProgressState& state, int columns);

/// How often a log gets a line: after ten seconds, and then whenever a tenth of the elapsed time has passed, at least
/// each ten minutes; or at every update, but for those within a second of the last line.
enum class LogLines : uint8_t { ever_fewer, each_second };

/// Shows the progress of one piece of work while it lives: a bar ten times a second on a terminal, in a log lines.
class Progress {
 public:
  using Clock = std::function<double()>;  ///< seconds
  Progress(Console& console, std::string label, std::string unit, double total, double started_at = 0,
           LogLines lines = LogLines::ever_fewer, Clock clock = steady_seconds);
  ~Progress();

  void update(double done, std::string_view note = {});

 private:
  static double steady_seconds();

  Console& console_;
  std::string label_, unit_;
  double total_, started_at_;
  LogLines lines_;
  Clock clock_;
  double start_, next_;
};

}  // namespace tangram
