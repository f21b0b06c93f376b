#pragma once
#include <span>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/context.h"

namespace tangram {

/// The way of the teacher's residual streams from one stage of a pipeline of processes to the next. Nothing flows back,
/// so a stage works on a step while the next one still works on the one before: streams are received ahead, and sent
/// while the sender computes.
class StageLink {
 public:
  /// Streams (tokens, hidden) of `count` micro-batches a step, in `memory`. Ranks of `world`, which is null in
  /// planning; < 0: there is none.
  StageLink(Communicator* world, int previous, int next, int64_t count, Tensor like, Arena& memory);

  bool has_previous() const { return previous_ >= 0; }
  bool has_next() const { return next_ >= 0; }
  /// The streams of a step, in the order of the steps. `is_last`: no step comes after it.
  void receive(std::span<const Tensor> streams, bool is_last, Context& ctx);
  /// Micro-batch m of a step goes to the next stage; the stream may change when the call returns.
  void send(size_t m, Tensor stream, Context& ctx);
  /// Returns when the next stage has everything.
  void finish();

 private:
  void start_receiving();

  Communicator* world_;
  int previous_, next_;
  std::vector<Tensor> incoming_, outgoing_;
  std::vector<Pending> arriving_, leaving_;
};

}  // namespace tangram
