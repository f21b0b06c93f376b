#include "kernels/transfer.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda.cuh"

namespace tangram::cuda {

Stream make_stream() {
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreate(&stream));
  return stream;
}

void destroy(Stream stream) noexcept { cudaStreamDestroy(stream); }

/// Pinned memory that contiguous transfers to the GPU go through in pieces: the host need not wait for the last of
/// them, and fills one piece while others move.
class Staging {
 public:
  Staging() { CUDA_CHECK(cudaMallocHost(&base_, kBytes)); }
  ~Staging() { cudaFreeHost(base_); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void send(void* dst, const void* src, int64_t bytes, Stream stream) {
    for (int64_t done = 0; done < bytes; done += kPieceBytes) {
      const int64_t piece = std::min(bytes - done, kPieceBytes);
      CUDA_CHECK(cudaMemcpyAsync(static_cast<char*>(dst) + done,
                                 put(static_cast<const char*>(src) + done, piece, stream), static_cast<size_t>(piece),
                                 cudaMemcpyHostToDevice, stream));
    }
  }

 private:
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

  static constexpr int64_t kPieceBytes = 1 << 20, kBytes = 16 * kPieceBytes;
  void* base_ = nullptr;
  int64_t used_ = 0;
};

namespace {

// A copy from or to the host would be of what its memory holds whenever the graph is launched.
void check_not_recording(const Tensor& dst, const Tensor& src, Stream stream) {
  CHECK(!is_recording(stream),
        "a transfer of ({}, {}) {} from the {} to the {} while a graph is being recorded: move it before the recording",
        src.rows, src.cols, name_of(src.dtype), src.device == Device::cuda ? "GPU" : "CPU",
        dst.device == Device::cuda ? "GPU" : "CPU");
}

}  // namespace

void transfer(Tensor dst, Tensor src, Context& ctx) {
  const Stream stream = ctx.stream;
  const bool host = dst.device == Device::cpu || src.device == Device::cpu;
  if (host) check_not_recording(dst, src, stream);
  if (src.device == Device::cpu && dst.device == Device::cuda && src.contiguous() && dst.contiguous()) {
    if (!ctx.staging) ctx.staging = std::make_shared<Staging>();
    return ctx.staging->send(dst.data, src.data, src.bytes(), stream);
  }
  const int64_t element = size_of(dst.dtype), row = dst.cols * element;
  const auto pitch = [&](const Tensor& t) { return static_cast<size_t>(t.rows > 1 ? t.stride * element : row); };
  CUDA_CHECK(cudaMemcpy2DAsync(dst.data, pitch(dst), src.data, pitch(src), static_cast<size_t>(row),
                               static_cast<size_t>(dst.rows), cudaMemcpyDefault, stream));
  if (host) synchronize(stream);
}

void synchronize(Stream stream) { CUDA_CHECK(cudaStreamSynchronize(stream)); }

}  // namespace tangram::cuda
