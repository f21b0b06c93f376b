#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"

namespace tangram {

class Context;
class Operation;            // kernels/communicator_thread.h
class CommunicationThread;  // kernels/communicator_thread.h
namespace cuda {
class Nccl;  // kernels/nccl.h
}

/// An operation under way. The memory of its tensors must stay, and what it sends must not change, until `wait` has
/// returned or this is destroyed, which waits, too, but is silent about an error: the next operation throws it again.
/// When an exception destroys it, it does not wait but ends communication: every later operation throws.
class [[nodiscard]] Pending {
 public:
  Pending() = default;  ///< of nothing: finished
  Pending(std::shared_ptr<CommunicationThread> thread, std::shared_ptr<Operation> operation);
  ~Pending();
  Pending(Pending&& other) noexcept = default;
  Pending& operator=(Pending&& other) noexcept;

  /// Returns when it is finished. Throws Error if it failed, or if nothing has moved for the timeout; it names the
  /// rank, the operation, the peers that are waited for, the tag, and the label.
  void wait();
  bool finished() const;

 private:
  std::shared_ptr<CommunicationThread> thread_;
  std::shared_ptr<Operation> operation_;
};

/// `count` elements from `first` on.
struct Slice {
  int64_t first, count;
};

/// What rank `rank` of `size` holds of `count` elements: consecutive, in the order of ranks, from multiples of 16
/// elements on; the last ranks may have fewer, or none.
Slice slice_of(int64_t count, int rank, int size);

/// One of several messages that start together.
struct Message {
  enum Kind { sent, received } kind;
  Tensor x;
  int peer, tag;
};

/// A group of ranks that work together: processes that a launcher (mpirun, srun) has started. Messages go over MPI,
/// which a thread of its own calls, so they move while the caller computes; those of a GPU's tensors go over NCCL, on a
/// stream of its own. Of tensors, which must be contiguous, the bytes go as they are. Copies of a Communicator are the
/// same group. One host thread uses the communicators of a process.
///
/// Every rank of the group calls the collective operations (all but messages), in the same order. All ranks then have
/// the same bits. No rank may be later than another by more than the timeout; this holds for the end of the process,
/// too.
class Communicator {
 public:
  struct Options {
    double timeout_s = 300;  ///< $TANGRAM_COMM_TIMEOUT overrides it
  };
  static constexpr int kTags = 1 << 14;  ///< tags of messages are 0 to kTags - 1

  Communicator();  ///< the group of one
  /// All processes that the launcher has started, to be called once; without a launcher the group of one, which needs
  /// no MPI. Throws Error if there is a launcher but MPI's module cannot be opened, and if Slurm's srun has started
  /// several tasks without telling MPI.
  static Communicator world(const Options& options);
  static Communicator world() { return world(Options{}); }

  int rank() const;
  int size() const;
  /// What stands in messages about operations that begin after: "distill step 17".
  void set_label(std::string label);

  /// Messages of one rank to another with one tag are received in the order of their sending. Sender and receiver agree
  /// about bytes, not about shapes.
  ///
  /// On a GPU tags do not count, and messages start in the order of the calls, each when the one before is finished:
  /// two ranks that each send before they receive wait forever, unless both messages are in one `exchange`.
  Pending send(Tensor x, int to, int tag) { return exchange({{Message::sent, x, to, tag}}); }
  Pending receive(Tensor x, int from, int tag) { return exchange({{Message::received, x, from, tag}}); }
  Pending exchange(const std::vector<Message>& messages);
  Pending send(std::string message, int to, int tag);  ///< takes a copy
  std::string receive_string(int from, int tag);

  void barrier();
  void broadcast(Tensor x, int root);
  std::string broadcast(std::string message, int root);
  /// Every rank's bytes, in the order of ranks, on every rank.
  std::vector<std::string> gather(std::string mine);
  /// Throws, on every rank, an Error that names the ranks whose value differs from rank 0's.
  void same_everywhere(const std::string& value, std::string_view what);

  /// x = sum over ranks of x, f32 or bf16, in the order of tree_sum, on every rank.
  void sum(Tensor x) { start_sum(x).wait(); }
  Pending start_sum(Tensor x) { return start_sum(x, true); }
  void all_reduce_sum(Tensor x) { sum(x); }
  /// The halves of a sum: of x, of `count` elements, rank r has the slice(count, r) summed, other elements undefined;
  /// and every rank has the slices of all.
  Pending start_reduce_scatter(Tensor x) { return start_sum(x, false); }
  Pending start_all_gather(Tensor x);
  Slice slice(int64_t count, int rank) const { return slice_of(count, rank, size()); }

  /// Lets tensors of the context's GPU be sent: their operations wait for what the context's stream was given before.
  /// Collective. Throws Error where NCCL cannot be used.
  void attach(const Context& ctx);

  /// The ranks that give the same colour, in the order of their keys, then of their ranks here.
  Communicator split(int colour, int key);

  /// Prints the message with the rank, and ends all processes of the job with that exit code: what main does with an
  /// Error. The job also ends if an exception destroys the communicator and the process's exit code is not 0.
  [[noreturn]] void abort(std::string_view message, int exit_code = 1);

 private:
  struct Group;
  explicit Communicator(std::shared_ptr<Group> group) : group_(std::move(group)) {}
  void check_message(const Message& message) const;
  std::string describe(const Message& message) const;
  std::shared_ptr<Operation> collective(std::string name);
  std::shared_ptr<Operation> collective(std::string name, Tensor x);
  Pending start(std::shared_ptr<Operation> operation, std::function<bool(Operation&)> advance);
  Pending start_sum(Tensor x, bool gathers);
  // communicator_gpu.cpp; their arguments are checked
  Pending exchange_on_gpu(std::shared_ptr<Operation> operation, const std::vector<Message>& messages);
  Pending broadcast_on_gpu(std::shared_ptr<Operation> operation, Tensor x, int root);
  Pending sum_on_gpu(std::shared_ptr<Operation> operation, Tensor x, bool gathers);
  Pending all_gather_on_gpu(std::shared_ptr<Operation> operation, Tensor x);
  Pending start_on_gpu(std::shared_ptr<Operation> operation, const std::function<void(cuda::Nccl&)>& queue);
  std::shared_ptr<Group> group_;
};

/// out = sum of the parts, f32 or bf16 on the CPU, contiguous and of one size, element by element in f32, in an order
/// that only their number gives: a binary tree in which a node of n leaves has the first 2^k on its left, the largest
/// power of two below n. So the sums of 2^j neighbours each, added in this order, are the sum of all, bit for bit
/// (f32). out may be one of the parts.
void tree_sum(Tensor out, std::span<const Tensor> parts);
/// The same on the context's device, of a GPU of at most 256 parts.
void tree_sum(Tensor out, std::span<const Tensor> parts, Context& ctx);

}  // namespace tangram
