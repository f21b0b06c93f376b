#include "kernels/transfer.h"

#include "kernels/cuda.cuh"

namespace tangram::cuda {

void* allocate(int64_t bytes) {
  void* p = nullptr;
  if (cudaMalloc(&p, static_cast<size_t>(bytes)) == cudaSuccess) return p;
  cudaGetLastError();  // clears it
  size_t free_bytes = 0, total_bytes = 0;
  CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  throw Error(fmt::format("the GPU has no {} bytes left: {} of {} are free", bytes, free_bytes, total_bytes));
}

void release(void* p) noexcept { cudaFree(p); }

Stream make_stream() {
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreate(&stream));
  return stream;
}

void destroy(Stream stream) noexcept { cudaStreamDestroy(stream); }

void transfer(Tensor dst, Tensor src, Stream stream) {
  if (dst.size() == 0) return;
  const int64_t element = size_of(dst.dtype), row = dst.cols * element;
  const auto pitch = [&](const Tensor& t) { return static_cast<size_t>(t.rows > 1 ? t.stride * element : row); };
  CUDA_CHECK(cudaMemcpy2DAsync(dst.data, pitch(dst), src.data, pitch(src), static_cast<size_t>(row),
                               static_cast<size_t>(dst.rows), cudaMemcpyDefault, stream));
  if (dst.device == Device::cpu || src.device == Device::cpu) synchronize(stream);
}

void synchronize(Stream stream) { CUDA_CHECK(cudaStreamSynchronize(stream)); }

}  // namespace tangram::cuda
