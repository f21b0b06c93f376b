#pragma once
#include <atomic>
#include <memory>

#include "kernels/arena.h"
#include "kernels/communicator.h"

struct CUstream_st;

namespace tangram {

using Stream = CUstream_st*;  ///< CUDA's cudaStream_t

class MatmulCache;  // kernels/matmul_cache.h
namespace cuda {
class Staging;         // transfer.cu
class MatmulPlans;     // matmul.cu
class AttentionPlans;  // attention_cudnn.cu
}  // namespace cuda

/// What an operation needs besides its arguments: where it runs, scratch memory, threads, library handles and the
/// tensor-parallel group. Passed to every operation as its last argument; never global. One host thread uses a Context
/// at a time.
class Context {
 public:
  struct Options {
    Device device = Device::cpu;
    int threads = 0;                            ///< 0: as many as the process may use
    int64_t scratch_bytes = int64_t{64} << 30;  ///< address space for scratch, whose memory is taken when it is used
    bool planning = false;                      ///< operations only count: see Context::planning
  };
  Context();
  explicit Context(const Options& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Whether operations do nothing but check their arguments, take scratch memory and count products. A computation
  /// that is run once with planner arenas in such a context has shown what memory and arithmetic it needs, of whichever
  /// device, on any machine.
  bool planning() const { return scratch.is_planner(); }

  const Device device;
  const int threads;
  const Stream stream;  ///< where the work of a GPU is queued; null on the CPU
  Arena scratch;        ///< for the duration of one operation: take an ArenaScope first
  const std::unique_ptr<MatmulCache> matmuls;
  int64_t matmul_calls = 0;       ///< matrix products issued so far; tests count them
  double matmul_flops = 0;        ///< their operations, 2 M N K each; benchmarks divide by them
  double attention_flops = 0;     ///< likewise of attention in training: see attention_flops in attention.h
  Communicator* tensor_parallel;  ///< never null; of size 1 unless set

  /// Whether the weights of products were written before the work that stands last in the stream: a GPU then reads
  /// them while that work still runs. Inference sets it, by a WeightsAtRest.
  bool weights_at_rest = false;

  /// What the GPU's operations keep between calls; each makes its own when it first needs it.
  std::shared_ptr<cuda::Staging> staging;
  std::shared_ptr<cuda::MatmulPlans> cuda_matmuls;
  std::shared_ptr<cuda::AttentionPlans> cuda_attentions;
};

/// Promises for its lifetime that no operation of the context writes a weight, nor did the one before it.
class WeightsAtRest {
 public:
  explicit WeightsAtRest(Context& ctx) : ctx_(ctx), before_(ctx.weights_at_rest) { ctx.weights_at_rest = true; }
  ~WeightsAtRest() { ctx_.weights_at_rest = before_; }
  WeightsAtRest(const WeightsAtRest&) = delete;
  WeightsAtRest& operator=(const WeightsAtRest&) = delete;

 private:
  Context& ctx_;
  bool before_;
};

}  // namespace tangram
