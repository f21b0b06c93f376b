#include "kernels/graph.h"

#include <utility>

#include "kernels/cuda_devices.h"

namespace tangram {

Graph::Graph(std::function<void()> work) : work_(std::move(work)) {}

void Graph::launch(Context& ctx) {
  if (ctx.device == Device::cpu || ctx.planning() || !std::exchange(warm_, true)) return work_();
  if constexpr (kCudaBuilt) {
    if (!recording_) {
      scratch_mark_ = ctx.scratch.mark();
      recording_ = cuda::record(work_, ctx);
    }
    CHECK(ctx.scratch.mark() <= scratch_mark_, "{} bytes of scratch memory are in use; the graph begins at {}",
          ctx.scratch.mark(), scratch_mark_);
    cuda::launch(*recording_, ctx);
  }
}

}  // namespace tangram
