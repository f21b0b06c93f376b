#include "kernels/context.h"

#include <omp.h>

#include "kernels/cuda_devices.h"
#include "kernels/matmul_cache.h"
#include "kernels/transfer.h"

namespace tangram {

static Stream make_stream(const Context::Options& options) {
  if constexpr (kCudaBuilt)
    if (options.device == Device::cuda && !options.planning) return cuda::make_stream();
  return nullptr;
}

Context::Context() : Context(Options{}) {}

Context::Context(const Options& options)
    : device(options.device),
      threads(options.threads > 0 ? options.threads : omp_get_max_threads()),
      stream(make_stream(options)),
      scratch(options.planning ? Arena::planner(options.device)
                               : Arena::growing(options.scratch_bytes, options.device)),
      matmuls(std::make_unique<MatmulCache>()) {
  static Communicator self;  // of one rank
  tensor_parallel = &self;
}

Context::~Context() {
  if constexpr (kCudaBuilt)
    if (stream) cuda::destroy(stream);
}

}  // namespace tangram
