#include "nas/interruption.h"

#include <array>
#include <atomic>
#include <csignal>

namespace tangram {
namespace {

constexpr std::array kSignals = {SIGUSR1, SIGTERM, SIGINT};

std::atomic<int> asked{0};
static_assert(std::atomic<int>::is_always_lock_free);  // a signal handler may use it
std::array<struct sigaction, kSignals.size()> earlier;

void on_signal(int signal) {
  int none = 0;
  if (asked.compare_exchange_strong(none, signal) || signal == SIGUSR1) return;
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  raise(signal);  // comes when this returns
}

}  // namespace

ListenForInterruption::ListenForInterruption() {
  asked = 0;
  for (size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigaction(kSignals[i], nullptr, &earlier[i]);
    if (earlier[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

ListenForInterruption::~ListenForInterruption() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &earlier[i], nullptr);
}

std::string_view interruption() {
  switch (asked) {
    case 0:
      return "";
    case SIGUSR1:
      return "SIGUSR1";
    case SIGTERM:
      return "SIGTERM";
    default:
      return "SIGINT";
  }
}

Error interrupted(std::string_view where) {
  const std::string_view by = interruption();
  return Error(fmt::format("interrupted{}{} {}; what was done is kept: run it again to go on", by.empty() ? "" : " by ",
                           by, where),
               kInterrupted);
}

void stop_if_interrupted(std::string_view where) {
  if (!interruption().empty()) throw interrupted(where);
}

}  // namespace tangram
