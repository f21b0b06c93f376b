#include "cublasLt.h"

#include <algorithm>
#include <vector>

#include "kernels/dtype.h"

namespace {

// Element (r, c) of a matrix that is stored by columns.
float element(const void* x, cublasLtMatrixLayout_t layout, int64_t r, int64_t c) {
  const int64_t i = c * layout->stride + r;
  return layout->type == CUDA_R_32F ? static_cast<const float*>(x)[i] : float(static_cast<const tangram::bf16*>(x)[i]);
}

// Rows of op(x), or of its transpose, side by side.
std::vector<float> rows_of(const void* x, cublasLtMatrixLayout_t layout, bool transposed) {
  const int64_t rows = transposed ? layout->cols : layout->rows, cols = transposed ? layout->rows : layout->cols;
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c)
      values[size_t(r * cols + c)] = transposed ? element(x, layout, c, r) : element(x, layout, r, c);
  return values;
}

void multiply(const cublasLtMatmulDescOpaque& operation, float scale, const void* a, cublasLtMatrixLayout_t layout_a,
              const void* b, cublasLtMatrixLayout_t layout_b, float keep, void* d, cublasLtMatrixLayout_t layout_d,
              bool backwards) {
  const auto [transpose_a, transpose_b] = operation.transpose;
  const int64_t m = layout_d->rows, n = layout_d->cols, k = transpose_a ? layout_a->rows : layout_a->cols;
  const std::vector<float> cols_a = rows_of(a, layout_a, !transpose_a), cols_b = rows_of(b, layout_b, !transpose_b);
  std::vector<float> sums(static_cast<size_t>(m));
  for (int64_t j = 0; j < n; ++j) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t step = 0; step < k; ++step) {
      const int64_t l = backwards ? k - 1 - step : step;
      const float *x = &cols_a[size_t(l * m)], y = cols_b[size_t(j * k + l)];
      for (int64_t i = 0; i < m; ++i) sums[size_t(i)] += x[i] * y;
    }
    for (int64_t i = 0; i < m; ++i) {
      const int64_t at = j * layout_d->stride + i;
      const float sum = sums[size_t(i)], before = keep == 0 ? 0 : keep * element(d, layout_d, i, j);
      if (layout_d->type == CUDA_R_32F)
        static_cast<float*>(d)[at] = scale * sum + before;
      else
        static_cast<tangram::bf16*>(d)[at] = tangram::bf16(scale * sum + before);
    }
  }
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "invalid value";
}
size_t cublasLtGetVersion() { return 0; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return *handle = nullptr, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t, cudaDataType_t) {
  return *desc = new cublasLtMatmulDescOpaque{}, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  desc->transpose[attribute] = *static_cast<const cublasOperation_t*>(value) == CUBLAS_OP_T;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t stride) {
  if (stride < int64_t(rows)) return CUBLAS_STATUS_INVALID_VALUE;
  return *layout = new cublasLtMatrixLayoutOpaque{type, int64_t(rows), int64_t(cols), stride}, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return *preference = nullptr, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int most,
                                              cublasLtMatmulHeuristicResult_t* found, int* count) {
  *count = most < 2 ? most : 2;
  for (int i = 0; i < *count; ++i) found[i] = {{{uint64_t(i)}}, CUBLAS_STATUS_SUCCESS};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t layout_a, const void* b, cublasLtMatrixLayout_t layout_b,
                              const void* beta, const void*, cublasLtMatrixLayout_t, void* d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t) {
  const auto [transpose_a, transpose_b] = operation->transpose;
  const int64_t m = layout_d->rows, n = layout_d->cols, k = transpose_a ? layout_a->rows : layout_a->cols;
  if ((transpose_a ? layout_a->cols : layout_a->rows) != m || (transpose_b ? layout_b->rows : layout_b->cols) != n ||
      (transpose_b ? layout_b->cols : layout_b->rows) != k)
    return CUBLAS_STATUS_INVALID_VALUE;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  tangram::emulator::queue([=, backwards = algorithm->data[0] == 1, op = *operation, la = *layout_a, lb = *layout_b,
                            ld = *layout_d]() mutable {
    std::memset(workspace, 0xff, workspace_bytes < 64 ? workspace_bytes : 64);  // nobody else's results lie there
    multiply(op, scale, a, &la, b, &lb, keep, d, &ld, backwards);
  });
  return CUBLAS_STATUS_SUCCESS;
}
