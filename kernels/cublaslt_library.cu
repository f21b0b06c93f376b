#include <cuda_runtime.h>
#ifndef TANGRAM_CUDA_EMULATOR  // which has these functions itself
#include <cublasLt.h>

#include "kernels/error.h"
#include "kernels/shared_library.h"

// cuBLASLt's functions, defined here under their own names: each opens the library when it is first called and goes on
// there. So a binary starts where the library (over 500 MB) is not installed, and one that is built elsewhere finds it
// among a Python's wheels; with the library on the link line neither would be so. Where cuDNN is used, too, it shares
// the copy that was opened first.

namespace tangram::cuda {
namespace {

SharedLibrary open_cublaslt() {
  SharedLibrary library({fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR), "libcublasLt.so"},
                        fmt::format("install cuBLAS of CUDA {}, or `pip install nvidia-cublas=={}.*` for the python3 "
                                    "that comes first on the PATH",
                                    CUBLAS_VER_MAJOR, CUBLAS_VER_MAJOR));
  const size_t version = library.function<size_t (*)()>("cublasLtGetVersion")();
  CHECK(version / 10000 == CUBLAS_VER_MAJOR, "{} is version {}; this binary needs {}.*", library.path(), version,
        CUBLAS_VER_MAJOR);
  return library;
}

template <class F>
F* function(const char* name) {
  static const SharedLibrary library = open_cublaslt();
  return library.function<F*>(name);
}

}  // namespace
}  // namespace tangram::cuda

#define FORWARD(result, name, parameters, arguments)                                                          \
  extern "C" result CUBLASWINAPI name parameters {                                                            \
    static auto* const in_library = tangram::cuda::function<std::remove_pointer_t<decltype(&::name)>>(#name); \
    return in_library arguments;                                                                              \
  }

FORWARD(size_t, cublasLtGetVersion, (), ())
FORWARD(const char*, cublasLtGetStatusString, (cublasStatus_t status), (status))
FORWARD(cublasStatus_t, cublasLtCreate, (cublasLtHandle_t * handle), (handle))
FORWARD(cublasStatus_t, cublasLtDestroy, (cublasLtHandle_t handle), (handle))
FORWARD(cublasStatus_t, cublasLtMatmul,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
         cublasLtMatrixLayout_t layout_a, const void* b, cublasLtMatrixLayout_t layout_b, const void* beta,
         const void* c, cublasLtMatrixLayout_t layout_c, void* d, cublasLtMatrixLayout_t layout_d,
         const cublasLtMatmulAlgo_t* algo, void* workspace, size_t bytes, cudaStream_t stream),
        (handle, desc, alpha, a, layout_a, b, layout_b, beta, c, layout_c, d, layout_d, algo, workspace, bytes, stream))

// A product's description.
FORWARD(cublasStatus_t, cublasLtMatmulDescCreate,
        (cublasLtMatmulDesc_t * desc, cublasComputeType_t compute, cudaDataType_t scale), (desc, compute, scale))
FORWARD(cublasStatus_t, cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t desc), (desc))
FORWARD(cublasStatus_t, cublasLtMatmulDescSetAttribute,
        (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void* value, size_t bytes),
        (desc, attribute, value, bytes))
FORWARD(cublasStatus_t, cublasLtMatrixLayoutCreate,
        (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t cols, int64_t stride),
        (layout, type, rows, cols, stride))
FORWARD(cublasStatus_t, cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))
FORWARD(cublasStatus_t, cublasLtMatrixLayoutSetAttribute,
        (cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const void* value, size_t bytes),
        (layout, attribute, value, bytes))

// The choice of an algorithm.
FORWARD(cublasStatus_t, cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference), (preference))
FORWARD(cublasStatus_t, cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference), (preference))
FORWARD(cublasStatus_t, cublasLtMatmulPreferenceSetAttribute,
        (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
         size_t bytes),
        (preference, attribute, value, bytes))
FORWARD(cublasStatus_t, cublasLtMatmulAlgoGetHeuristic,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int most,
         cublasLtMatmulHeuristicResult_t results[], int* count),
        (handle, desc, a, b, c, d, preference, most, results, count))
FORWARD(cublasStatus_t, cublasLtMatmulAlgoGetIds,
        (cublasLtHandle_t handle, cublasComputeType_t compute, cudaDataType_t scale, cudaDataType_t a, cudaDataType_t b,
         cudaDataType_t c, cudaDataType_t d, int most, int ids[], int* count),
        (handle, compute, scale, a, b, c, d, most, ids, count))
FORWARD(cublasStatus_t, cublasLtMatmulAlgoInit,
        (cublasLtHandle_t handle, cublasComputeType_t compute, cudaDataType_t scale, cudaDataType_t a, cudaDataType_t b,
         cudaDataType_t c, cudaDataType_t d, int id, cublasLtMatmulAlgo_t* algo),
        (handle, compute, scale, a, b, c, d, id, algo))
FORWARD(cublasStatus_t, cublasLtMatmulAlgoCheck,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algo,
         cublasLtMatmulHeuristicResult_t* result),
        (handle, desc, a, b, c, d, algo, result))
FORWARD(cublasStatus_t, cublasLtMatmulAlgoCapGetAttribute,
        (const cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoCapAttributes_t attribute, void* value, size_t bytes,
         size_t* written),
        (algo, attribute, value, bytes, written))
FORWARD(cublasStatus_t, cublasLtMatmulAlgoConfigGetAttribute,
        (const cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoConfigAttributes_t attribute, void* value, size_t bytes,
         size_t* written),
        (algo, attribute, value, bytes, written))
FORWARD(cublasStatus_t, cublasLtMatmulAlgoConfigSetAttribute,
        (cublasLtMatmulAlgo_t * algo, cublasLtMatmulAlgoConfigAttributes_t attribute, const void* value, size_t bytes),
        (algo, attribute, value, bytes))
#endif
