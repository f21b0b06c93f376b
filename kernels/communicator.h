#pragma once
#include "kernels/tensor.h"

namespace tangram {

/// A group of ranks that work together.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// x = sum of x over the ranks of the group, in rank order.
  virtual void all_reduce_sum(Tensor x) = 0;
};

/// The group of one: its sum is x itself.
class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(Tensor) override {}
};

}  // namespace tangram
