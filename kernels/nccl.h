#pragma once
#include <memory>
#include <span>
#include <string>

#include "kernels/context.h"

// NCCL, opened at run time: what a Communicator asks of it for tensors of a GPU. nccl.cu; communicator_sum.cu.

namespace tangram::cuda {

/// Why NCCL cannot be used here: not compiled in, no library, no GPU. Empty if it can.
std::string why_no_nccl();

/// What was queued between Nccl's `begin` and `end`. Any thread may ask.
class NcclWork {
 public:
  explicit NcclWork(int device);
  ~NcclWork();
  NcclWork(const NcclWork&) = delete;
  NcclWork& operator=(const NcclWork&) = delete;
  bool has_started() const;  ///< what came before it in either stream is done
  bool is_finished() const;

 private:
  friend class Nccl;
  struct Events;
  std::unique_ptr<Events> events_;
};

/// The ranks of a group, which all call the same operations in the same order, and a stream of their own: what is
/// queued on it waits for what the compute stream had queued at `begin`.
class Nccl {
 public:
  static std::string new_id();  ///< one rank makes it for all
  /// Returns when every rank of the group is here.
  Nccl(const std::string& id, int rank, int size, Stream compute);
  ~Nccl();
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  struct Part {
    void* data;
    int64_t bytes;
    int peer;
    bool sent;  ///< else received
  };
  void begin();
  void transfer(std::span<const Part> parts);  ///< all at the same time
  void broadcast(Tensor x, int root);
  void sum(Tensor out, std::span<const Tensor> parts);  ///< tree_sum
  std::shared_ptr<NcclWork> end();
  /// Makes the compute stream wait for the work; returns at once.
  void join(const NcclWork& work);
  /// Memory of the GPU for the operations of one `begin`, as large as any before.
  void* scratch(int64_t bytes);
  /// Why communication has failed; empty if it has not. Any thread may ask.
  std::string failure() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// tree_sum of at most 256 parts on a GPU.
void tree_sum(Tensor out, std::span<const Tensor> parts, Stream stream);

}  // namespace tangram::cuda
