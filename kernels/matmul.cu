#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include "kernels/cuda.cuh"
#include "kernels/device_memory.h"
#include "kernels/matmul_cuda.h"
#include "kernels/random.h"

#define LT_CHECK(call, shape)                                                                                       \
  do {                                                                                                              \
    const cublasStatus_t lt_status = (call);                                                                        \
    CHECK(lt_status == CUBLAS_STATUS_SUCCESS, "{} ended with {} for {}", #call, cublasLtGetStatusString(lt_status), \
          describe(shape));                                                                                         \
  } while (false)

namespace tangram::cuda {
namespace {

cudaDataType_t type_of(DType dtype) { return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF; }

/// One of cuBLASLt's algorithms. A name for the library's type, which nvcc cannot put into a container as it is.
struct Algorithm {
  cublasLtMatmulAlgo_t value;
};

/// cuBLASLt's description of a product. The library counts in columns: what it sees is c^T = b'^T a'^T, whose operands
/// are our matrices as they lie in memory.
class Description {
 public:
  explicit Description(const MatmulShape& s) {
    LT_CHECK(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), s);
    set(CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, s);
    set(CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, s);
    b = layout(s, s.dtype_ab, s.transpose_b ? s.N : s.K, s.transpose_b ? s.K : s.N, s.stride_b);
    a = layout(s, s.dtype_ab, s.transpose_a ? s.K : s.M, s.transpose_a ? s.M : s.K, s.stride_a);
    c = layout(s, s.dtype_c, s.M, s.N, s.stride_c);
  }
  ~Description() {
    for (cublasLtMatrixLayout_t x : {a, b, c})
      if (x) cublasLtMatrixLayoutDestroy(x);
    if (operation) cublasLtMatmulDescDestroy(operation);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;

 private:
  void set(cublasLtMatmulDescAttributes_t attribute, cublasOperation_t value, const MatmulShape& s) {
    LT_CHECK(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), s);
  }
  static cublasLtMatrixLayout_t layout(const MatmulShape& s, DType dtype, int64_t rows, int64_t cols, int64_t stride) {
    cublasLtMatrixLayout_t x = nullptr;
    LT_CHECK(cublasLtMatrixLayoutCreate(&x, type_of(dtype), uint64_t(cols), uint64_t(rows), std::max(stride, cols)), s);
    return x;
  }
};

/// What the library proposes for a shape, its first choice first.
std::vector<Algorithm> proposals(cublasLtHandle_t handle, const Description& d, const MatmulShape& s) {
  constexpr int kMost = 16;
  cublasLtMatmulPreference_t preference = nullptr;
  LT_CHECK(cublasLtMatmulPreferenceCreate(&preference), s);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    LT_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), s);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kMatmulWorkspaceBytes});
  // Parts of a split sum meet in the workspace, in their order.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  for (auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(operand, uint32_t(s.alignment));
  cublasLtMatmulHeuristicResult_t found[kMost];
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, d.operation, d.b, d.a, d.c, d.c, preference, kMost, found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  LT_CHECK(status, s);
  std::vector<Algorithm> algorithms;
  for (int i = 0; i < count; ++i)
    if (found[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back({found[i].algo});
  CHECK(!algorithms.empty(), "cuBLASLt has no algorithm for {}", describe(s));
  return algorithms;
}

/// Memory of the GPU for a C++ scope.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(int64_t bytes) : data(allocate(bytes)) {}
  ~DeviceBuffer() { release(data); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  void* const data;
};

std::string name_of_machine() {
  cudaDeviceProp device;
  int index = 0;
  CUDA_CHECK(cudaGetDevice(&index));
  CUDA_CHECK(cudaGetDeviceProperties(&device, index));
  return fmt::format("cuBLASLt {} on {}, {} multiprocessors", cublasLtGetVersion(), device.name,
                     device.multiProcessorCount);
}

}  // namespace

/// A chosen algorithm and the descriptions that go with it, by shape.
class MatmulPlans {
 public:
  struct Plan {
    std::unique_ptr<Description> description;
    Algorithm algorithm;
    bool measured = false;
  };

  MatmulPlans() {
    const cublasStatus_t status = cublasLtCreate(&handle_);
    CHECK(status == CUBLAS_STATUS_SUCCESS, "cublasLtCreate ended with {}", cublasLtGetStatusString(status));
  }
  ~MatmulPlans() { cublasLtDestroy(handle_); }
  MatmulPlans(const MatmulPlans&) = delete;
  MatmulPlans& operator=(const MatmulPlans&) = delete;

  static MatmulPlans& of(Context& ctx) {
    if (!ctx.cuda_matmuls) ctx.cuda_matmuls = std::make_shared<MatmulPlans>();
    return *ctx.cuda_matmuls;
  }

  Plan& find(const MatmulShape& shape) {
    if (const auto known = plans_.find(shape); known != plans_.end()) return known->second;
    auto description = std::make_unique<Description>(shape);
    const Algorithm first = proposals(handle_, *description, shape).front();
    Plan& plan = plans_[shape];
    plan.description = std::move(description), plan.algorithm = first;
    return plan;
  }

  void set(const MatmulShape& shape, const Algorithm& algorithm) {
    Plan& plan = plans_[shape];
    plan.description = std::make_unique<Description>(shape), plan.algorithm = algorithm, plan.measured = true;
  }

  cublasStatus_t run(const Plan& plan, const MatmulShape& s, void* c, const void* a, const void* b, void* workspace,
                     Stream stream) const {
    const float alpha = 1, beta = s.accumulate ? 1 : 0;
    const Description& d = *plan.description;
    return cublasLtMatmul(handle_, d.operation, &alpha, b, d.b, a, d.a, &beta, c, d.c, c, d.c, &plan.algorithm.value,
                          workspace, kMatmulWorkspaceBytes, stream);
  }

  cublasLtHandle_t handle() const { return handle_; }
  bool is_to_choose(const Plan& plan, const MatmulShape& shape) const {
    return chosen && !plan.measured && shape.flops() >= least_flops;
  }

  double least_flops = 0;
  std::function<void()> chosen;  ///< none: nothing is chosen but by choose_matmul
  const std::map<MatmulShape, Plan>& all() const { return plans_; }

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::map<MatmulShape, Plan> plans_;
};

void matmul(Tensor c, Tensor a, Tensor b, const MatmulShape& shape, Tensor workspace, Context& ctx) {
  MatmulPlans& plans = MatmulPlans::of(ctx);
  const MatmulPlans::Plan& plan = plans.find(shape);
  if (plans.is_to_choose(plan, shape) && !is_recording(ctx.stream)) {
    choose_matmul(shape, ctx);
    plans.chosen();
  }
  LT_CHECK(plans.run(plan, shape, c.data, a.data, b.data, workspace.data, ctx.stream), shape);
}

void choose_matmuls(double least_flops, std::function<void()> chosen, Context& ctx) {
  MatmulPlans& plans = MatmulPlans::of(ctx);
  plans.least_flops = least_flops, plans.chosen = std::move(chosen);
}

void choose_matmul(const MatmulShape& shape, Context& ctx) {
  constexpr int kRepeats = 3;
  constexpr float kHopeless = 1.25f;  // times the best: not worth a repetition
  MatmulPlans& plans = MatmulPlans::of(ctx);
  MatmulPlans::Plan& plan = plans.find(shape);
  if (std::exchange(plan.measured, true)) return;
  const MatmulShape& s = shape;
  const int64_t size_a = (s.transpose_a ? s.K : s.M) * s.stride_a, size_b = (s.transpose_b ? s.N : s.K) * s.stride_b;
  const int64_t size_c = s.M * s.stride_c;
  const int64_t bytes = (size_a + size_b) * size_of(s.dtype_ab) + size_c * size_of(s.dtype_c) + kMatmulWorkspaceBytes;
  if (bytes > memory_state().free_bytes) return;
  const DeviceBuffer a(size_a * size_of(s.dtype_ab)), b(size_b * size_of(s.dtype_ab)), c(size_c * size_of(s.dtype_c));
  const DeviceBuffer workspace(kMatmulWorkspaceBytes);
  const auto fill = [&](void* data, int64_t size, DType dtype) {
    tangram::fill_for_measuring({data, 1, size, size, dtype, Device::cuda}, 0, 1, 1, ctx);
  };
  // Random numbers: the power that a product draws, and with it the clock, depends on the bits that it multiplies.
  fill(a.data, size_a, s.dtype_ab), fill(b.data, size_b, s.dtype_ab), fill(c.data, size_c, s.dtype_c);
  float best = 0;
  Algorithm chosen = plan.algorithm;
  for (const Algorithm& algorithm : proposals(plans.handle(), *plan.description, shape)) {
    plan.algorithm = algorithm;
    float fastest = 0;
    for (int r = 0; r <= kRepeats; ++r) {  // the first warms up
      Timer timer(ctx);
      if (plans.run(plan, s, c.data, a.data, b.data, workspace.data, ctx.stream) != CUBLAS_STATUS_SUCCESS) break;
      const float milliseconds = timer.stop();
      if (r == 1 || (r > 1 && milliseconds < fastest)) fastest = milliseconds;
      if (best > 0 && fastest > kHopeless * best) break;
    }
    if (fastest > 0 && (best == 0 || fastest < best)) best = fastest, chosen = algorithm;
  }
  plan.algorithm = chosen;
}

std::string matmul_choices(Context& ctx) {
  std::string text = name_of_machine() + "\n";
  for (const auto& [s, plan] : MatmulPlans::of(ctx).all()) {
    if (!plan.measured) continue;
    text += fmt::format("{} {} {} {} {} {} {} {} {} {} {} {}", s.M, s.N, s.K, s.stride_a, s.stride_b, s.stride_c,
                        int(s.transpose_a), int(s.transpose_b), int(s.accumulate), int(s.dtype_ab), int(s.dtype_c),
                        s.alignment);
    for (const uint64_t word : plan.algorithm.value.data) text += fmt::format(" {:016x}", word);
    text += '\n';
  }
  return text;
}

std::optional<int64_t> load_matmul_choices(const std::string& text, Context& ctx) {
  std::istringstream lines(text);
  std::string line;
  if (!std::getline(lines, line) || line != name_of_machine()) return std::nullopt;
  int64_t count = 0;
  for (; std::getline(lines, line); ++count) {
    std::istringstream in(line);
    MatmulShape s{};
    int ta = 0, tb = 0, accumulate = 0, ab = 0, c = 0;
    Algorithm algorithm;
    in >> s.M >> s.N >> s.K >> s.stride_a >> s.stride_b >> s.stride_c >> ta >> tb >> accumulate >> ab >> c >>
        s.alignment >> std::hex;
    for (uint64_t& word : algorithm.value.data) in >> word;
    const bool known = (ab == int(DType::f32) || ab == int(DType::bf16)) && (c == int(DType::f32) || c == ab);
    if (!in || !known) throw bad_input("line {} of the chosen products is damaged: '{}'", count + 2, line);
    s.transpose_a = ta, s.transpose_b = tb, s.accumulate = accumulate;
    s.dtype_ab = static_cast<DType>(ab), s.dtype_c = static_cast<DType>(c);
    MatmulPlans::of(ctx).set(s, algorithm);
  }
  return count;
}

}  // namespace tangram::cuda
