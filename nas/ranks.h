#pragma once
#include <functional>
#include <memory>
#include <string>

#include "kernels/communicator.h"
#include "nas/config.h"

// What the processes of one run agree on. Rank 0 leads: it holds the run directory and does what is done once.

namespace tangram {

/// Gives this process, where a launcher has started several on its node and each sees several GPUs, the one of its
/// place among them. To be called before anything else asks for GPUs.
void choose_gpu_of_rank();

inline bool leads(const Communicator& world) { return world.rank() == 0; }

/// What `work` answers, which only the leader does, however long it takes, while the others wait. An Error of it is
/// thrown on every rank. Meanwhile the leader shows them that it lives.
std::string answer_of_leader(Communicator& world, const std::function<std::string()>& work);

/// Work that ranks share without exchanging anything, and that may take some much longer than others: while it lives,
/// every rank shows the leader that it does, and the leader all others, so that waiting at the end knows no time limit
/// but for a rank that is gone.
class SharedWork {
 public:
  explicit SharedWork(Communicator& world);
  ~SharedWork();
  /// Returns when every rank has called it.
  void finish();

 private:
  Communicator& world_;
  std::unique_ptr<class SignsOfLife> signs_;
};

/// Throws Error (bad_input) on every rank, naming those that differ, unless all run the same program on the same config
/// and find the same teacher and text.
void check_same_run(Communicator& world, const SearchConfig& config);

/// How many processes of `world` are on this node, this one among them.
int64_t ranks_on_node(Communicator& world);

/// Threads that each process may use, where `threads` are not set: those of its node, shared evenly with the other
/// processes that are there. Where the launcher has bound processes to processors, these count.
int64_t threads_of_rank(Communicator& world, int64_t threads);

}  // namespace tangram
