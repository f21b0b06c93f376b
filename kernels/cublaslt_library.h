#pragma once
#include <cublasLt.h>

#include <string>

#include "kernels/error.h"

/// Throws Error with the call, its place and cuBLASLt's explanation unless it succeeds:
/// `CUBLASLT_CHECK(lt.cublasLtMatmul(...));`
#define CUBLASLT_CHECK(call)                                                   \
  do {                                                                         \
    const cublasStatus_t cublas_status = (call);                               \
    CHECK(cublas_status == CUBLAS_STATUS_SUCCESS, "{} ended with: {}", #call,  \
          ::tangram::cuda::cublaslt().cublasLtGetStatusString(cublas_status)); \
  } while (false)

namespace tangram::cuda {

#define TANGRAM_CUBLASLT_FUNCTIONS(F)     \
  F(cublasLtCreate)                       \
  F(cublasLtDestroy)                      \
  F(cublasLtGetVersion)                   \
  F(cublasLtGetStatusString)              \
  F(cublasLtMatmul)                       \
  F(cublasLtMatmulDescCreate)             \
  F(cublasLtMatmulDescDestroy)            \
  F(cublasLtMatmulDescSetAttribute)       \
  F(cublasLtMatrixLayoutCreate)           \
  F(cublasLtMatrixLayoutDestroy)          \
  F(cublasLtMatrixLayoutSetAttribute)     \
  F(cublasLtMatmulPreferenceCreate)       \
  F(cublasLtMatmulPreferenceDestroy)      \
  F(cublasLtMatmulPreferenceSetAttribute) \
  F(cublasLtMatmulAlgoGetHeuristic)       \
  F(cublasLtMatmulAlgoGetIds)             \
  F(cublasLtMatmulAlgoInit)               \
  F(cublasLtMatmulAlgoCheck)              \
  F(cublasLtMatmulAlgoConfigGetAttribute) \
  F(cublasLtMatmulAlgoConfigSetAttribute) \
  F(cublasLtMatmulAlgoCapGetAttribute)

/// cuBLASLt's functions, under their own names. The library (over 500 MB) is no part of this binary and is opened when
/// it is first needed.
struct CublasLt {
#define TANGRAM_MEMBER(name) decltype(&::name) name;
  TANGRAM_CUBLASLT_FUNCTIONS(TANGRAM_MEMBER)
#undef TANGRAM_MEMBER
  std::string path;  ///< the file that was opened
};

/// The library; opened at the first call, in whichever thread. Throws Error that says where it was sought and what to
/// install if it is not there, or is of another major version than the headers. Where cuDNN is also used, this comes
/// first: cuDNN then shares this copy.
const CublasLt& cublaslt();

}  // namespace tangram::cuda
