#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/communicator_thread.h"

namespace tangram {
namespace {

constexpr int64_t kBlock = 1024;                // elements that are summed at a time, in the first cache
constexpr int64_t kBucketBytes = 4 << 20;       // that come from all other ranks together before they are added
constexpr int64_t kFewestPieceElements = 4096;  // from one rank, however many there are
constexpr int64_t kSliceUnit = 16;              // elements

const float* widened(float*, const float* x, int64_t) { return x; }
const float* widened(float* to, const bf16* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = float(x[i]);
  return to;
}

/// The sum of the parts' elements [at, at + count): in `to`, or, of one part of f32, where it lies.
template <class T>
const float* sum_of(float* to, std::span<const Tensor> parts, int64_t at, int64_t count) {
  if (parts.size() == 1) return widened(to, parts[0].as<T>() + at, count);
  const size_t left = std::bit_floor(parts.size() - 1);  // the largest power of two below their number
  float other[kBlock];
  const float* a = sum_of<T>(to, parts.first(left), at, count);
  const float* b = sum_of<T>(other, parts.subspan(left), at, count);
  for (int64_t i = 0; i < count; ++i) to[i] = a[i] + b[i];
  return to;
}

/// A sum in rounds, one for each bucket of the slices. In round b every rank gets all pieces of bucket b of its own
/// slice while it adds those of bucket b - 1, whose sum then goes to the others along with bucket b + 1.
class SumRounds {
 public:
  SumRounds(Tensor x, const Communicator& group, bool gathers)
      : x_(x.reshape(1, x.size())), group_(group), gathers_(gathers) {
    const int64_t others = group.size() - 1, longest = group.slice(x.size(), 0).count;
    piece_ = std::min(longest, std::max(kFewestPieceElements, kBucketBytes / (others * size_of(x.dtype))));
    buckets_ = piece_ > 0 ? ceil_div(longest, piece_) : 0;
    received_.resize(size_t(2 * others * piece_ * size_of(x.dtype)));
  }

  bool operator()(Operation& op) {
    const int64_t bucket = round_++;
    if (bucket < buckets_) exchange(op, bucket);
    if (bucket > 0 && bucket <= buckets_) {
      add(bucket - 1);
      if (gathers_) gather(op, bucket - 1);
    }
    return bucket < buckets_ || (gathers_ && bucket == buckets_ && buckets_ > 0);
  }

 private:
  /// The elements of x that are bucket `bucket` of a rank's slice.
  Tensor elements(int rank, int64_t bucket) const {
    const Slice slice = group_.slice(x_.cols, rank);
    const int64_t first = std::min(slice.count, bucket * piece_);
    return x_.col_range(slice.first + first, std::min(piece_, slice.count - first));
  }
  /// What another rank has for bucket `bucket` of this rank's slice.
  Tensor received(int rank, int64_t bucket) {
    const int64_t place = rank - (rank > group_.rank()), others = group_.size() - 1;
    Tensor x = elements(group_.rank(), bucket);
    x.data = received_.data() + (bucket % 2 * others + place) * piece_ * size_of(x.dtype);
    return x;
  }
  template <class F>
  void for_each_other(F&& f) {  // beginning behind this rank, so that not all send to the same
    for (int i = 1; i < group_.size(); ++i) f((group_.rank() + i) % group_.size());
  }

  void exchange(Operation& op, int64_t bucket) {
    for_each_other([&](int r) {
      if (const Tensor x = received(r, bucket); x.size() > 0) op.receive(x.data, x.bytes(), r);
    });
    for_each_other([&](int r) {
      if (const Tensor x = elements(r, bucket); x.size() > 0) op.send(x.data, x.bytes(), r);
    });
  }
  void add(int64_t bucket) {
    const Tensor sum = elements(group_.rank(), bucket);
    std::vector<Tensor> parts;
    for (int r = 0; r < group_.size(); ++r) parts.push_back(r == group_.rank() ? sum : received(r, bucket));
    tree_sum(sum, parts);
  }
  void gather(Operation& op, int64_t bucket) {
    const Tensor own = elements(group_.rank(), bucket);
    for_each_other([&](int r) {
      if (const Tensor x = elements(r, bucket); x.size() > 0) op.receive(x.data, x.bytes(), r);
    });
    for_each_other([&](int r) {
      if (own.size() > 0) op.send(own.data, own.bytes(), r);
    });
  }

  Tensor x_;
  Communicator group_;
  bool gathers_;
  int64_t piece_ = 0;           // elements of a bucket in one slice
  int64_t buckets_ = 0;         // of the longest slice
  std::vector<char> received_;  // pieces of two buckets, one from each other rank
  int64_t round_ = 0;
};

}  // namespace

void tree_sum(Tensor out, std::span<const Tensor> parts) {
  CHECK(!parts.empty(), "a sum of nothing");
  for (const Tensor& part : parts)
    CHECK(part.size() == out.size() && part.dtype == out.dtype && part.contiguous() && part.device == Device::cpu,
          "a part is ({}, {}) {}; must be contiguous, on the CPU, and like the sum, ({}, {}) {}", part.rows, part.cols,
          name_of(part.dtype), out.rows, out.cols, name_of(out.dtype));
  CHECK(out.contiguous() && out.device == Device::cpu, "a sum goes into contiguous memory of the CPU");
  dispatch(out.dtype, [&]<class T>() {
    float block[kBlock];
    for (int64_t at = 0; at < out.size(); at += kBlock) {
      const int64_t count = std::min(kBlock, out.size() - at);
      const float* sum = sum_of<T>(block, parts, at, count);
      for (int64_t i = 0; i < count; ++i) out.as<T>()[at + i] = T(sum[i]);
    }
  });
}

Slice Communicator::slice(int64_t count, int rank) const {
  const int64_t length = round_up(ceil_div(count, size()), kSliceUnit);
  const int64_t first = std::min(count, rank * length);
  return {first, std::min(length, count - first)};
}

static void check_sum(Tensor x) {
  CHECK(x.dtype == DType::f32 || x.dtype == DType::bf16, "a sum of {}; only f32 and bf16 are summed", name_of(x.dtype));
}

Pending Communicator::start_sum(Tensor x) {
  check_sum(x);
  if (size() == 1) return {};
  return start(collective(fmt::format("sum of {} bytes", x.bytes()), x), SumRounds(x, *this, /*gathers=*/true));
}

Pending Communicator::start_reduce_scatter(Tensor x) {
  check_sum(x);
  if (size() == 1) return {};
  return start(collective(fmt::format("reduce-scatter of {} bytes", x.bytes()), x),
               SumRounds(x, *this, /*gathers=*/false));
}

Pending Communicator::start_all_gather(Tensor x) {
  if (size() == 1) return {};
  auto op = collective(fmt::format("all-gather of {} bytes", x.bytes()), x);
  return start(std::move(op), [x = x.reshape(1, x.size()), *this, posted = false](Operation& o) mutable {
    if (std::exchange(posted, true)) return false;
    const auto elements = [&](int r) {
      const Slice s = slice(x.cols, r);
      return x.col_range(s.first, s.count);
    };
    const Tensor own = elements(rank());
    for (int i = 1; i < size(); ++i) {
      const int from = (rank() + size() - i) % size(), to = (rank() + i) % size();
      if (const Tensor part = elements(from); part.size() > 0) o.receive(part.data, part.bytes(), from);
      if (own.size() > 0) o.send(own.data, own.bytes(), to);
    }
    return true;
  });
}

}  // namespace tangram
