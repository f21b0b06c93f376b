#pragma once
#include <compare>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/matmul_shape.h"

namespace tangram {

/// Sets the number of OpenMP threads of the calling thread for a C++ scope: oneDNN asks for it when a primitive is made
/// and again when it runs.
class ThreadScope {
 public:
  explicit ThreadScope(int threads);
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int previous_;
};

/// Everything that the code of a product on the CPU depends on.
struct MatmulKey {
  MatmulShape shape;
  int threads;
  auto operator<=>(const MatmulKey&) const = default;
};

/// A compiled product. Several threads may run one at a time each with scratch of its own.
struct MatmulPlan {
  dnnl::matmul primitive;
  dnnl::memory::desc a, b, c, scratchpad;
  int64_t scratch_bytes = 0;
};

/// Compiled products by key. `find` is for one thread at a time; a plan stays valid until the next `find`.
class MatmulCache {
 public:
  /// The plan for `key`, compiled at the first call; null if this machine has no instructions for the dtype.
  const MatmulPlan* find(const MatmulKey& key);

  /// c = a' b' or c += a' b', as the plan says. `scratch` holds at least plan.scratch_bytes.
  void run(const MatmulPlan& plan, void* c, const void* a, const void* b, void* scratch);

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<MatmulKey, MatmulPlan> plans_;
};

}  // namespace tangram
