#include "distill/stage_link.h"

#include "kernels/elementwise.h"
#include "kernels/transfer.h"

namespace tangram {

constexpr int kStreamTag = 4;

StageLink::StageLink(Communicator* world, int previous, int next, int64_t count, Tensor like, Arena& memory)
    : world_(world), previous_(previous), next_(next) {
  for (int64_t m = 0; m < count; ++m) {
    if (has_previous()) incoming_.push_back(memory.tensor(like.rows, like.cols, like.dtype));
    if (has_next()) outgoing_.push_back(memory.tensor(like.rows, like.cols, like.dtype));
  }
  leaving_.resize(outgoing_.size());
}

void StageLink::start_receiving() {
  for (const Tensor& stream : incoming_) arriving_.push_back(world_->receive(stream, previous_, kStreamTag));
}

void StageLink::receive(std::span<const Tensor> streams, bool is_last, Context& ctx) {
  if (ctx.planning()) return;
  if (arriving_.empty()) start_receiving();
  for (size_t m = 0; m < streams.size(); ++m) {
    arriving_[m].wait();
    copy(streams[m], incoming_[m], ctx);
  }
  arriving_.clear();
  if (is_last) return;
  synchronize(ctx);  // the copies are made
  start_receiving();
}

void StageLink::send(size_t m, Tensor stream, Context& ctx) {
  if (ctx.planning()) return;
  leaving_[m].wait();  // the step before
  copy(outgoing_[m], stream, ctx);
  synchronize(ctx);
  leaving_[m] = world_->send(outgoing_[m], next_, kStreamTag);
}

void StageLink::finish() {
  for (Pending& p : leaving_) p.wait();
}

}  // namespace tangram
