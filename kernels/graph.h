#pragma once
#include <functional>
#include <memory>

#include "kernels/context.h"

namespace tangram {

namespace cuda {
class Recording;  // graph.cu
}

/// Work that is queued again and again, the same but for what the memory holds that it reads. On a GPU it is recorded
/// and then started as a whole (a CUDA graph), which takes the host microseconds however many kernels it has; on the
/// CPU it is called.
class Graph {
 public:
  /// `work` queues the same operations on the same memory whenever it is called. It neither waits for the GPU nor moves
  /// anything to or from the host, and what steers its operations are Indices that only the GPU knows.
  explicit Graph(std::function<void()> work);

  /// Queues the work. The first time it runs as it is, so that what operations keep between calls gets made; the second
  /// time it is recorded. Error if the work cannot be recorded, or if scratch memory is in use that the recording uses.
  void launch(Context& ctx);

 private:
  std::function<void()> work_;
  bool warm_ = false;
  int64_t scratch_mark_ = 0;  // where the recording's scratch memory begins
  std::shared_ptr<cuda::Recording> recording_;
};

namespace cuda {  // graph.cu
std::shared_ptr<Recording> record(const std::function<void()>& work, Context& ctx);
void launch(const Recording& recording, Context& ctx);
}  // namespace cuda

}  // namespace tangram
