#include <cuda_runtime.h>
#ifndef TANGRAM_CUDA_EMULATOR  // has no cuBLASLt
#include "kernels/cublaslt_library.h"
#include "kernels/shared_library.h"

namespace tangram::cuda {

static CublasLt open_cublaslt() {
  const SharedLibrary library(
      {fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR), "libcublasLt.so"},
      fmt::format("install CUDA {} (its cuBLAS), or `pip install nvidia-cublas` for the python3 on the PATH",
                  CUBLAS_VER_MAJOR));
  CublasLt lt;
  lt.path = library.path();
#define TANGRAM_LOAD(name) lt.name = library.function<decltype(&::name)>(#name);
  TANGRAM_CUBLASLT_FUNCTIONS(TANGRAM_LOAD)
#undef TANGRAM_LOAD
  const size_t version = lt.cublasLtGetVersion();
  CHECK(version / 10000 == CUBLAS_VER_MAJOR, "{} is cuBLASLt {}; this needs version {}", lt.path, version,
        CUBLAS_VER_MAJOR);
  return lt;
}

const CublasLt& cublaslt() {
  static const CublasLt lt = open_cublaslt();
  return lt;
}

}  // namespace tangram::cuda
#endif
