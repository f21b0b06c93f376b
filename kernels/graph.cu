#include "kernels/graph.h"

#include "kernels/cuda.cuh"

namespace tangram::cuda {

/// A graph in the form that the GPU starts.
class Recording {
 public:
  Recording(const std::function<void()>& work, Context& ctx) {
    // Of this thread: others may go on allocating and copying.
    CUDA_CHECK(cudaStreamBeginCapture(ctx.stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(ctx.stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    CUDA_CHECK(cudaStreamEndCapture(ctx.stream, &graph));
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    CHECK(error == cudaSuccess, "making a graph of recorded work ended with: {}", cudaGetErrorString(error));
  }
  ~Recording() { cudaGraphExecDestroy(executable_); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void launch(const Context& ctx) const { CUDA_CHECK(cudaGraphLaunch(executable_, ctx.stream)); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

std::shared_ptr<Recording> record(const std::function<void()>& work, Context& ctx) {
  return std::make_shared<Recording>(work, ctx);
}

void launch(const Recording& recording, Context& ctx) { recording.launch(ctx); }

}  // namespace tangram::cuda
