#include "nas/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "nas/units.h"

namespace tangram {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kFirstLineSeconds = 10, kLongestLineSeconds = 600;
constexpr double kEachLineSeconds = 1;

int terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

double share_of(const ProgressState& s) { return s.total > 0 ? std::clamp(s.done / s.total, 0.0, 1.0) : 1; }

/// Amount, rate, time left and note; the last three where they are known.
std::string details(const ProgressState& s, std::string_view separator) {
  std::string text = fmt::format("{} of {} {}", format_count(s.done), format_count(s.total), s.unit);
  const double rate = s.seconds > 0 ? (s.done - s.started_at) / s.seconds : 0;
  if (rate > 0) text += fmt::format("{}{} {}/s", separator, format_count(rate), s.unit);
  if (rate > 0 && s.done < s.total)
    text += fmt::format("{}{} left", separator, format_seconds((s.total - s.done) / rate));
  if (!s.note.empty()) text += fmt::format("{}{}", separator, s.note);
  return text;
}

}  // namespace

void Console::line(std::string_view text) {
  if (quiet_) return;
  status("");
  fmt::print(out_, "{}\n", text);
  std::fflush(out_);
}

void Console::status(std::string_view text) {
  if (quiet_ || !terminal_ || (text.empty() && !has_status_)) return;
  fmt::print(out_, "\r\x1b[K{}", text);  // ESC [ K: erase to the end of the line
  std::fflush(out_);
  has_status_ = !text.empty();
}

std::string progress_line(const ProgressState& state) {
  return fmt::format("{}: {:.0f}%, {}", state.label, 100 * share_of(state), details(state, ", "));
}

std::string progress_bar(const ProgressState& state, int columns) {
  constexpr int kCells = 24;
  const int filled = static_cast<int>(share_of(state) * kCells);
  std::string text =
      fmt::format("{} [{}{}] {:3.0f}%  {}", state.label, std::string(static_cast<size_t>(filled), '#'),
                  std::string(static_cast<size_t>(kCells - filled), '.'), 100 * share_of(state), details(state, "  "));
  // A line as wide as the terminal would wrap and could not be redrawn.
  return text.substr(0, static_cast<size_t>(std::max(columns - 1, 0)));
}

Progress::Progress(Console& console, std::string label, std::string unit, double total, double started_at,
                   LogLines lines, Clock clock)
    : console_(console),
      label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      started_at_(started_at),
      lines_(lines),
      clock_(std::move(clock)),
      start_(clock_()),
      next_(start_ + (console.terminal() || lines == LogLines::each_second ? 0 : kFirstLineSeconds)) {}

Progress::~Progress() { console_.status(""); }

void Progress::update(double done, std::string_view note) {
  const double now = clock_();
  if (now < next_) return;
  const ProgressState state = {label_, unit_, done, total_, started_at_, now - start_, note};
  if (console_.terminal()) {
    console_.status(progress_bar(state, terminal_columns()));
    next_ = now + kRedrawSeconds;
  } else {
    console_.line(progress_line(state));
    next_ = now + (lines_ == LogLines::each_second
                       ? kEachLineSeconds
                       : std::clamp((now - start_) / 10, kFirstLineSeconds, kLongestLineSeconds));
  }
}

double Progress::steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace tangram
