#include "kernels/context.h"

#include <omp.h>

#include "kernels/matmul_cache.h"

namespace tangram {

Context::Context() : Context(Options{}) {}

Context::Context(const Options& options)
    : threads(options.threads > 0 ? options.threads : omp_get_max_threads()),
      scratch(options.scratch_bytes),
      matmuls(std::make_unique<MatmulCache>()) {
  static SelfCommunicator self;  // has no state
  tensor_parallel = &self;
}

Context::~Context() = default;

}  // namespace tangram
