#pragma once
#include <string_view>

#include "kernels/error.h"

// A run may be asked to end early: by Slurm before a time limit or a preemption, by scancel, by Ctrl-C. It ends at the
// next place where nothing is lost.

namespace tangram {

/// Kind of an Error, and so the exit code (EX_TEMPFAIL), of a run that has ended as it was asked to: called again, it
/// goes on.
inline constexpr Failure kInterrupted{75};

/// While one lives, SIGUSR1, SIGTERM and SIGINT only ask for an end. A second one that is not SIGUSR1, which job
/// scripts may repeat, kills at once. A signal that the parent has told this process to ignore stays ignored.
class ListenForInterruption {
 public:
  ListenForInterruption();
  ~ListenForInterruption();
  ListenForInterruption(const ListenForInterruption&) = delete;
  ListenForInterruption& operator=(const ListenForInterruption&) = delete;
};

/// The signal that has asked this process to end: "SIGUSR1". Empty if none has.
std::string_view interruption();

/// What a run says that ends early: `where`, such as "behind step 12 of distill", is where it goes on.
Error interrupted(std::string_view where);

/// Throws that if an end was asked for.
void stop_if_interrupted(std::string_view where);

}  // namespace tangram
