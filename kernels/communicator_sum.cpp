#include "kernels/communicator_sum.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/communicator_thread.h"
#include "kernels/cuda_devices.h"
#include "kernels/nccl.h"

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

/// out = sum of the parts, elements [first, end).
template <class T>
void add_all(Tensor out, std::span<const Tensor> parts, int64_t first, int64_t end) {
  float block[kBlock];
  for (int64_t at = first; at < end; at += kBlock) {
    const int64_t count = std::min(kBlock, end - at);
    const float* sum = sum_of<T>(block, parts, at, count);
    for (int64_t i = 0; i < count; ++i) out.as<T>()[at + i] = T(sum[i]);
  }
}

/// A sum in rounds, one for each bucket of the slices. In round b every rank gets all pieces of bucket b of its own
/// slice while it adds those of bucket b - 1, whose sum then goes to the others along with bucket b + 1.
class SumRounds {
 public:
  SumRounds(Tensor x, const RankGroup& group, bool gathers)
      : pieces_(x, group.rank, group.size(), kBucketBytes),
        gathers_(gathers),
        received_(new char[size_t(2 * pieces_.received_bytes())]) {}

  bool operator()(Operation& op) {
    const int64_t bucket = round_++, last = pieces_.buckets();
    if (bucket < last) exchange(op, bucket);
    if (bucket > 0 && bucket <= last) {
      add(bucket - 1);
      if (gathers_) gather(op, bucket - 1);
    }
    return bucket < last || (gathers_ && bucket == last && last > 0);
  }

 private:
  Tensor received(int rank, int64_t bucket) {
    return pieces_.received(received_.get() + bucket % 2 * pieces_.received_bytes(), rank, bucket);
  }
  void exchange(Operation& op, int64_t bucket) {
    for (const int r : pieces_.others()) receive(op, received(r, bucket), r);
    for (const int r : pieces_.others()) send(op, pieces_.of(r, bucket), r);
  }
  void add(int64_t bucket) {
    tree_sum(pieces_.own(bucket), pieces_.parts(bucket, [&](int r) { return received(r, bucket); }));
  }
  void gather(Operation& op, int64_t bucket) {
    for (const int r : pieces_.others()) receive(op, pieces_.of(r, bucket), r);
    for (const int r : pieces_.others()) send(op, pieces_.own(bucket), r);
  }
  static void send(Operation& op, Tensor x, int to) {
    if (x.size() > 0) op.send(x.data, x.bytes(), to);
  }
  static void receive(Operation& op, Tensor x, int from) {
    if (x.size() > 0) op.receive(x.data, x.bytes(), from);
  }

  SumPieces pieces_;
  bool gathers_;
  std::shared_ptr<char[]> received_;  // pieces of two buckets, one from each other rank
  int64_t round_ = 0;
};

void check_parts(Tensor out, std::span<const Tensor> parts, Device device) {
  CHECK(!parts.empty(), "a sum of nothing");
  const auto is_like_out = [&](Tensor x) {
    return x.size() == out.size() && x.dtype == out.dtype && x.contiguous() && x.device == device;
  };
  for (const Tensor& x : parts)
    CHECK(is_like_out(x), "a part is ({}, {}) {}; must be contiguous, on the device, and like the sum, ({}, {}) {}",
          x.rows, x.cols, name_of(x.dtype), out.rows, out.cols, name_of(out.dtype));
  CHECK(is_like_out(out), "a sum goes into contiguous memory of the device");
}

}  // namespace

void tree_sum(Tensor out, std::span<const Tensor> parts) {
  check_parts(out, parts, Device::cpu);
  dispatch(out.dtype, [&]<class T>() { add_all<T>(out, parts, 0, out.size()); });
}

void tree_sum(Tensor out, std::span<const Tensor> parts, Context& ctx) {
  check_parts(out, parts, ctx.device);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (ctx.device == Device::cuda) return cuda::tree_sum(out, parts, ctx.stream);
  const int64_t blocks = ceil_div(out.size(), kBlock);
  dispatch(out.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
    for (int64_t b = 0; b < blocks; ++b) add_all<T>(out, parts, b * kBlock, std::min(out.size(), (b + 1) * kBlock));
  });
}

Slice slice_of(int64_t count, int rank, int size) {
  const int64_t length = round_up(ceil_div(count, size), kSliceUnit);
  const int64_t first = std::min(count, rank * length);
  return {first, std::min(length, count - first)};
}

SumPieces::SumPieces(Tensor x, int rank, int size, int64_t bucket_bytes)
    : x_(x.reshape(1, x.size())), rank_(rank), size_(size) {
  const int64_t longest = slice_of(x.size(), 0, size).count;
  piece_ = std::min(longest, std::max(kFewestPieceElements, bucket_bytes / ((size - 1) * size_of(x.dtype))));
  buckets_ = piece_ > 0 ? ceil_div(longest, piece_) : 0;
  for (int i = 1; i < size; ++i) others_.push_back((rank + i) % size);  // not all first to the same
}

Tensor SumPieces::of(int rank, int64_t bucket) const {
  const Slice slice = slice_of(x_.cols, rank, size_);
  const int64_t first = std::min(slice.count, bucket * piece_);
  return x_.col_range(slice.first + first, std::min(piece_, slice.count - first));
}

Tensor SumPieces::received(void* memory, int rank, int64_t bucket) const {
  Tensor x = own(bucket);
  x.data = static_cast<char*>(memory) + (rank - (rank > rank_)) * piece_ * size_of(x.dtype);
  return x;
}

// --- the operations ---

Pending Communicator::start_sum(Tensor x, bool gathers) {
  CHECK(x.dtype == DType::f32 || x.dtype == DType::bf16, "a sum of {}; only f32 and bf16 are summed", name_of(x.dtype));
  if (size() == 1) return {};
  auto op = collective(fmt::format("{} of {} bytes", gathers ? "sum" : "reduce-scatter", x.bytes()), x);
  if (x.device == Device::cuda) return sum_on_gpu(std::move(op), x, gathers);
  SumRounds rounds(x, *op->ranks, gathers);
  return start(std::move(op), std::move(rounds));
}

Pending Communicator::start_all_gather(Tensor x) {
  if (size() == 1) return {};
  auto op = collective(fmt::format("all-gather of {} bytes", x.bytes()), x);
  if (x.device == Device::cuda) return all_gather_on_gpu(std::move(op), x);
  return start(std::move(op), [x = x.reshape(1, x.size()), started = false](Operation& o) mutable {
    if (std::exchange(started, true)) return false;
    const int rank = o.ranks->rank, size = o.ranks->size();
    const auto elements = [&](int r) {
      const Slice s = slice_of(x.cols, r, size);
      return x.col_range(s.first, s.count);
    };
    const Tensor own = elements(rank);
    for (int i = 1; i < size; ++i) {
      const int from = (rank + size - i) % size;
      if (const Tensor part = elements(from); part.size() > 0) o.receive(part.data, part.bytes(), from);
      if (own.size() > 0) o.send(own.data, own.bytes(), (rank + i) % size);
    }
    return true;
  });
}

}  // namespace tangram
