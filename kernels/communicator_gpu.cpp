#include <chrono>

#include "kernels/communicator_sum.h"
#include "kernels/communicator_thread.h"
#include "kernels/cuda_devices.h"
#include "kernels/nccl.h"

// A Communicator's operations on tensors of a GPU. They are queued on NCCL's stream at once; the communication thread
// only watches them.

namespace tangram {
namespace {

constexpr int64_t kBucketBytes = 32 << 20;  // that come from all other ranks together before they are added

void add_transfer(std::vector<cuda::Nccl::Part>& parts, Tensor x, int peer, bool sent) {
  parts.push_back({x.data, x.bytes(), peer, sent});
}

/// Ends the job if the work fails, or lasts longer than the timeout once it can run.
class Watch {
 public:
  Watch(std::shared_ptr<cuda::Nccl> nccl, std::shared_ptr<cuda::NcclWork> work, CommunicationThread& thread)
      : nccl_(std::move(nccl)), work_(std::move(work)), thread_(thread) {}

  bool operator()(Operation& op) {
    using Clock = std::chrono::steady_clock;
    if (work_->is_finished()) return false;
    if (const std::string failure = nccl_->failure(); !failure.empty())
      thread_.abort_here(fmt::format("{}: NCCL says: {}", op.describe(), failure));
    if (!started_ && work_->has_started()) started_ = true, start_ = Clock::now();
    if (started_ && std::chrono::duration<double>(Clock::now() - start_).count() > thread_.timeout_s())
      thread_.abort_here(
          fmt::format("{}: not finished after {} s on the GPU: a rank has died, hangs, or is slower than "
                      "the timeout",
                      op.describe(), thread_.timeout_s()));
    return true;
  }

 private:
  std::shared_ptr<cuda::Nccl> nccl_;
  std::shared_ptr<cuda::NcclWork> work_;
  CommunicationThread& thread_;  // whose own this is
  bool started_ = false;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace

void Communicator::attach(const Context& ctx) {
  CHECK(ctx.device == Device::cuda, "NCCL is for a context of a GPU");
  if (size() == 1) return;
  if constexpr (kCudaBuilt) {
    const std::string why_not = cuda::why_no_nccl();
    for (const std::string& other : gather(why_not))
      if (!other.empty()) throw Error(fmt::format("a rank cannot use NCCL: {}", other));
    const std::string id = broadcast(rank() == 0 ? cuda::Nccl::new_id() : "", 0);
    group_->nccl = std::make_shared<cuda::Nccl>(id, rank(), size(), ctx.stream);
  } else {
    throw Error("this program was built without CUDA");
  }
}

Pending Communicator::start_on_gpu(std::shared_ptr<Operation> operation,
                                   const std::function<void(cuda::Nccl&)>& queue) {
  CHECK(group_->nccl, "{}: a tensor of the GPU in a communicator that has no GPU: `attach` it", operation->describe());
  if constexpr (kCudaBuilt) {
    const std::shared_ptr<cuda::Nccl> nccl = group_->nccl;
    nccl->begin();
    queue(*nccl);
    const std::shared_ptr<cuda::NcclWork> work = nccl->end();
    operation->join = [nccl, work] { nccl->join(*work); };
    return start(std::move(operation), Watch(nccl, work, *group_->thread));
  }
  return {};
}

Pending Communicator::exchange_on_gpu(std::shared_ptr<Operation> operation, const std::vector<Message>& messages) {
  return start_on_gpu(std::move(operation), [&](cuda::Nccl& nccl) {
    std::vector<cuda::Nccl::Part> parts;
    for (const Message& m : messages) add_transfer(parts, m.x, m.peer, m.kind == Message::sent);
    if constexpr (kCudaBuilt) nccl.transfer(parts);
  });
}

Pending Communicator::broadcast_on_gpu(std::shared_ptr<Operation> operation, Tensor x, int root) {
  return start_on_gpu(std::move(operation), [&](cuda::Nccl& nccl) {
    if constexpr (kCudaBuilt) nccl.broadcast(x, root);
  });
}

Pending Communicator::sum_on_gpu(std::shared_ptr<Operation> operation, Tensor x, bool gathers) {
  const SumPieces pieces(x, rank(), size(), kBucketBytes);
  return start_on_gpu(std::move(operation), [&](cuda::Nccl& nccl) {
    if constexpr (kCudaBuilt) {
      void* const memory = nccl.scratch(pieces.received_bytes());
      // Each bucket moves while the sums of the one before go round.
      for (int64_t b = 0; b <= pieces.buckets(); ++b) {
        std::vector<cuda::Nccl::Part> parts;
        for (const int r : pieces.others()) {
          if (b < pieces.buckets()) {
            add_transfer(parts, pieces.of(r, b), r, true);
            add_transfer(parts, pieces.received(memory, r, b), r, false);
          }
          if (b > 0 && gathers) {
            add_transfer(parts, pieces.own(b - 1), r, true);
            add_transfer(parts, pieces.of(r, b - 1), r, false);
          }
        }
        nccl.transfer(parts);
        if (b < pieces.buckets())
          nccl.sum(pieces.own(b), pieces.parts(b, [&](int r) { return pieces.received(memory, r, b); }));
      }
    }
  });
}

Pending Communicator::all_gather_on_gpu(std::shared_ptr<Operation> operation, Tensor x) {
  return start_on_gpu(std::move(operation), [&](cuda::Nccl& nccl) {
    std::vector<cuda::Nccl::Part> parts;
    const Tensor all = x.reshape(1, x.size());
    const auto elements = [&](int r) {
      const Slice s = slice(all.cols, r);
      return all.col_range(s.first, s.count);
    };
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      add_transfer(parts, elements(rank()), r, true);
      add_transfer(parts, elements(r), r, false);
    }
    if constexpr (kCudaBuilt) nccl.transfer(parts);
  });
}

}  // namespace tangram
