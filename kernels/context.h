#pragma once
#include <atomic>
#include <memory>

#include "kernels/arena.h"
#include "kernels/communicator.h"

struct CUstream_st;

namespace tangram {

using Stream = CUstream_st*;  ///< CUDA's cudaStream_t

class MatmulCache;  // kernels/matmul_cache.h

/// What an operation needs besides its arguments: where it runs, scratch memory, threads, library handles and the
/// tensor-parallel group. Passed to every operation as its last argument; never global. One host thread uses a Context
/// at a time.
class Context {
 public:
  struct Options {
    Device device = Device::cpu;
    int threads = 0;                           ///< 0: as many as the process may use
    int64_t scratch_bytes = int64_t{8} << 30;  ///< address space for scratch; committed only when touched
  };
  Context();
  explicit Context(const Options& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Device device;
  const int threads;
  const Stream stream;  ///< where the work of a GPU is queued; null on the CPU
  Arena scratch;        ///< for the duration of one operation: take an ArenaScope first
  const std::unique_ptr<MatmulCache> matmuls;
  int64_t matmul_calls = 0;       ///< matrix products issued so far; tests count them
  double matmul_flops = 0;        ///< their operations, 2 M N K each; benchmarks divide by them
  Communicator* tensor_parallel;  ///< never null; of size 1 unless set
};

}  // namespace tangram
