#pragma once
#include "kernels/communicator.h"

namespace tangram {

/// How a sum over several ranks is cut: every rank adds one slice of x, bucket by bucket, and needs of each bucket a
/// piece from every other rank.
class SumPieces {
 public:
  /// `bucket_bytes`: what comes from all other ranks for one bucket, about.
  SumPieces(Tensor x, int rank, int size, int64_t bucket_bytes);

  int64_t buckets() const { return buckets_; }  ///< of the longest slice
  const std::vector<int>& others() const { return others_; }
  /// The elements of x that are a bucket of a rank's slice; none if its slice is shorter.
  Tensor of(int rank, int64_t bucket) const;
  Tensor own(int64_t bucket) const { return of(rank_, bucket); }
  /// What another rank has for a bucket of this rank's slice lies in memory of `received_bytes`, here:
  int64_t received_bytes() const { return (size_ - 1) * piece_ * size_of(x_.dtype); }
  Tensor received(void* memory, int rank, int64_t bucket) const;
  /// What is added for a bucket: this rank's own elements, and of every other rank what received_from(r) gives.
  template <class F>
  std::vector<Tensor> parts(int64_t bucket, F&& received_from) const {
    std::vector<Tensor> all;
    for (int r = 0; r < size_; ++r) all.push_back(r == rank_ ? own(bucket) : received_from(r));
    return all;
  }

 private:
  Tensor x_;
  int rank_, size_;
  int64_t piece_, buckets_;  // elements of a piece; buckets
  std::vector<int> others_;
};

}  // namespace tangram
