#pragma once
#include <span>
#include <vector>

#include "distill/trainable.h"

namespace tangram {

/// The processes that train the same students on different micro-batches of a step. Each student has an owner among
/// them, who alone holds its optimiser state: the others send it their gradients and get the new weights back.
struct Replicas {
  Communicator* group = nullptr;  ///< of `count` ranks; null for one, and in planning
  int64_t index = 0, count = 1;
  std::vector<int64_t> owned = {};  ///< parameters, by each replica, so far

  /// The replica that owns least so far; it gets so many parameters more.
  int64_t assign(int64_t parameters);
};

/// Adds up the gradients of all replicas, in the order of `tree_sum`. The sums stand where the owner is; `owners[i]` is
/// that of `trainables[i]`. The others' gradients stay as they are.
void sum_gradients(std::span<const Trainable> trainables, std::span<const int64_t> owners, const Replicas& replicas,
                   Context& ctx);

/// Every replica gets the weights that the owners have.
void share_weights(std::span<const Trainable> trainables, std::span<const int64_t> owners, const Replicas& replicas,
                   Context& ctx);

/// Of the rows of x, contiguous, each replica has an equal part in order; afterwards each has all.
void gather_rows(Tensor x, const Replicas& replicas, Context& ctx);

}  // namespace tangram
