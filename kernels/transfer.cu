#include "kernels/transfer.h"

#include <cstring>

#include "kernels/cuda.cuh"

namespace tangram::cuda {

Stream make_stream() {
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreate(&stream));
  return stream;
}

void destroy(Stream stream) noexcept { cudaStreamDestroy(stream); }

/// Pinned memory that small transfers to the GPU go through, so that the host need not wait for them.
class Staging {
 public:
  Staging() { CUDA_CHECK(cudaMallocHost(&base_, kBytes)); }
  ~Staging() { cudaFreeHost(base_); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void* put(const void* src, int64_t bytes, Stream stream) {
    if (used_ + bytes > kBytes) {  // what was put before has left when the stream is done
      synchronize(stream);
      used_ = 0;
    }
    void* place = static_cast<char*>(base_) + used_;
    std::memcpy(place, src, static_cast<size_t>(bytes));
    used_ += round_up(bytes, 64);
    return place;
  }

 private:
  static constexpr int64_t kBytes = 4 * kStagedBytes;
  void* base_ = nullptr;
  int64_t used_ = 0;
};

void transfer(Tensor dst, Tensor src, Context& ctx) {
  const Stream stream = ctx.stream;
  if (src.device == Device::cpu && dst.device == Device::cuda && src.contiguous() && dst.contiguous() &&
      src.bytes() <= kStagedBytes) {
    if (!ctx.staging) ctx.staging = std::make_shared<Staging>();
    CUDA_CHECK(cudaMemcpyAsync(dst.data, ctx.staging->put(src.data, src.bytes(), stream),
                               static_cast<size_t>(src.bytes()), cudaMemcpyHostToDevice, stream));
    return;
  }
  const int64_t element = size_of(dst.dtype), row = dst.cols * element;
  const auto pitch = [&](const Tensor& t) { return static_cast<size_t>(t.rows > 1 ? t.stride * element : row); };
  CUDA_CHECK(cudaMemcpy2DAsync(dst.data, pitch(dst), src.data, pitch(src), static_cast<size_t>(row),
                               static_cast<size_t>(dst.rows), cudaMemcpyDefault, stream));
  if (dst.device == Device::cpu || src.device == Device::cpu) synchronize(stream);
}

void synchronize(Stream stream) { CUDA_CHECK(cudaStreamSynchronize(stream)); }

}  // namespace tangram::cuda
