#if TANGRAM_HAS_CUDNN
#include "kernels/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <cmath>
#include <map>
#include <tuple>

#include "kernels/dtype.h"

// Fused attention through cuDNN's graphs: each describes one shape, is compiled when it is first met, and is kept.

namespace tangram::cuda {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;
using TensorOfGraph = std::shared_ptr<fe::graph::Tensor_attributes>;

namespace {

/// Tensors of a graph by the names under which it finds their memory; those with starts come first, in their order.
enum Name : int64_t { kQ, kK, kV, kOut, kDout, kDq, kDk, kDv, kStats, kLengths, kStarts };  // kStarts + kQ, …
constexpr const char* kNames[] = {"q", "k", "v", "out", "dout", "dq", "dk", "dv"};

bool of_keys(int64_t name) { return name == kK || name == kV || name == kDk || name == kDv; }

int64_t uid(int64_t name) { return name + 1; }

/// All that a graph depends on.
struct GraphShape {
  bool backward, ragged;
  int64_t sequences, longest, heads, kv_heads, head_dim, window;
  std::array<int64_t, 8> strides;  ///< of kQ to kDv
  auto operator<=>(const GraphShape&) const = default;
};

struct Plan {
  std::shared_ptr<Graph> graph;  ///< null: refused
  int64_t workspace_bytes = 0;
};

/// Adds the tensors of one graph.
class GraphMaker {
 public:
  explicit GraphMaker(const GraphShape& shape) : shape_(shape) {
    graph->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    if (shape.ragged) lengths = list("lengths", uid(kLengths), shape.sequences, fe::DataType_t::INT32);
  }

  TensorOfGraph input(Name name) {
    fe::graph::Tensor_attributes x;
    lay_out(x, name);
    return graph->tensor(x);
  }
  void output(TensorOfGraph& x, Name name) {
    x->set_output(true);
    lay_out(*x, name);
  }
  void lay_out_stats(fe::graph::Tensor_attributes& x) const {
    const int64_t H = shape_.heads, L = shape_.longest;
    x.set_name("stats").set_uid(uid(kStats)).set_data_type(fe::DataType_t::FLOAT);
    x.set_dim({shape_.sequences, H, L, 1}).set_stride({H * L, L, 1, 1});
  }

  /// The scale, the mask and the lengths, which both passes have alike.
  template <class Attributes>
  void set_mask(Attributes& attention) const {
    attention.set_attn_scale(float(1 / std::sqrt(double(shape_.head_dim))));
    attention.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
    if (shape_.window < shape_.longest) attention.set_diagonal_band_left_bound(int(shape_.window));
    if (shape_.ragged) attention.set_padding_mask(true).set_seq_len_q(lengths).set_seq_len_kv(lengths);
  }

  const std::shared_ptr<Graph> graph = std::make_shared<Graph>();

 private:
  TensorOfGraph list(const std::string& name, int64_t uid, int64_t size, fe::DataType_t type) {
    fe::graph::Tensor_attributes x;
    x.set_name(name).set_uid(uid).set_data_type(type).set_dim({size, 1, 1, 1}).set_stride({1, 1, 1, 1});
    return graph->tensor(x);
  }

  void lay_out(fe::graph::Tensor_attributes& x, Name name) {
    const int64_t stride = shape_.strides[size_t(name)], D = shape_.head_dim;
    x.set_name(kNames[name]).set_uid(uid(name)).set_data_type(fe::DataType_t::BFLOAT16);
    x.set_dim({shape_.sequences, of_keys(name) ? shape_.kv_heads : shape_.heads, shape_.longest, D});
    x.set_stride({shape_.longest * stride, D, stride, 1});
    if (shape_.ragged)
      x.set_ragged_offset(list(std::string("starts of ") + kNames[name], uid(kStarts + name), shape_.sequences + 1,
                               fe::DataType_t::INT64));
  }

  const GraphShape shape_;
  TensorOfGraph lengths;
};

std::shared_ptr<Graph> describe_forward(const GraphShape& shape) {
  GraphMaker maker(shape);
  fe::graph::SDPA_attributes attention;
  attention.set_name("attention").set_generate_stats(true);
  maker.set_mask(attention);
  const TensorOfGraph q = maker.input(kQ), k = maker.input(kK), v = maker.input(kV);
  auto [out, stats] = maker.graph->sdpa(q, k, v, attention);
  maker.output(out, kOut);
  stats->set_output(true);
  maker.lay_out_stats(*stats);
  return maker.graph;
}

std::shared_ptr<Graph> describe_backward(const GraphShape& shape) {
  GraphMaker maker(shape);
  fe::graph::SDPA_backward_attributes attention;
  attention.set_name("attention_backward").set_deterministic_algorithm(true);
  maker.set_mask(attention);
  fe::graph::Tensor_attributes stats;
  maker.lay_out_stats(stats);
  const TensorOfGraph q = maker.input(kQ), k = maker.input(kK), v = maker.input(kV), out = maker.input(kOut);
  auto [dq, dk, dv] =
      maker.graph->sdpa_backward(q, k, v, out, maker.input(kDout), maker.graph->tensor(stats), attention);
  maker.output(dq, kDq), maker.output(dk, kDk), maker.output(dv, kDv);
  return maker.graph;
}

}  // namespace

/// cuDNN's handle and the graphs of a context.
class AttentionPlans {
 public:
  ~AttentionPlans() {
    plans_.clear();
    if (handle_) cudnnDestroy(handle_);
  }

  /// The graph of a shape; null, with `refusal`, if cuDNN is not installed, cannot serve it or wants more memory.
  const Plan& plan(const GraphShape& shape, int64_t most_workspace, Stream stream) {
    const auto [found, is_new] = plans_.try_emplace(shape);
    if (!is_new) return found->second;
    try {
      if (!handle_) create_handle(stream);
      std::shared_ptr<Graph> graph = shape.backward ? describe_backward(shape) : describe_forward(shape);
      fe::error_t built = graph->build(handle_, {fe::HeurMode_t::A});
      CHECK(built.is_good(), "cuDNN has no such graph: {}", built.get_message());
      int64_t bytes = 0;
      CHECK(graph->get_workspace_size(bytes).is_good(), "cuDNN gives no size of its workspace");
      CHECK(bytes <= most_workspace, "cuDNN wants {} bytes of workspace; planned are {}", bytes, most_workspace);
      found->second = {graph, bytes};
    } catch (const std::exception& e) {  // Error, or the frontend's own
      refusal = e.what();
    }
    return found->second;
  }
  cudnnHandle_t handle() const { return handle_; }

  std::string refusal;

 private:
  void create_handle(Stream stream) {
    CHECK(unavailable_.empty(), "{}", unavailable_);
    try {
      const cudnnStatus_t status = cudnnCreate(&handle_);
      CHECK(status == CUDNN_STATUS_SUCCESS, "cudnnCreate ended with: {}", cudnnGetErrorString(status));
      CHECK(cudnnSetStream(handle_, stream) == CUDNN_STATUS_SUCCESS, "cudnnSetStream failed");
    } catch (const Error& e) {
      unavailable_ = e.what();
      throw;
    }
  }

  cudnnHandle_t handle_ = nullptr;
  std::string unavailable_;  ///< why there is no handle: the library is looked for once
  std::map<GraphShape, Plan> plans_;
};

namespace {

/// The tensors of a call by name; null where the pass has none.
using Tensors = std::array<Tensor, 8>;

/// Runs the graph on sequences [first_sequence, …) and key/value heads [first_kv, …) of the batch.
void run(const Plan& plan, const Tensors& tensors, int64_t first_sequence, int64_t first_kv, int64_t group,
         int64_t head_dim, const CudnnAttention& shape, Context& ctx) {
  std::unordered_map<int64_t, void*> memory{{uid(kStats), shape.stats.data}};
  for (int64_t name = kQ; name <= kDv; ++name) {
    const Tensor& x = tensors[size_t(name)];
    if (!x.data) continue;
    const int64_t head = of_keys(name) ? first_kv : first_kv * group;
    memory[uid(name)] = x.row<bf16>(first_sequence * shape.longest) + head * head_dim;
    if (shape.ragged) memory[uid(kStarts + name)] = shape.starts.row<int64_t>(name);
  }
  if (shape.ragged) memory[uid(kLengths)] = shape.lengths.data;
  fe::error_t done = plan.graph->execute(ctx.cuda_attentions->handle(), memory, shape.workspace.data);
  CHECK(done.is_good(), "cuDNN's attention over {} sequences of at most {} tokens, {} of {} key/value heads: {}",
        shape.sequences, shape.longest, shape.kv_at_once, tensors[kK].cols / head_dim, done.get_message());
}

/// Calls f(first sequence, first key/value head) for each part of the batch; false if cuDNN refuses.
template <class F>
bool for_each_part(bool backward, const Tensors& tensors, const AttentionShape& shape, const DeviceIndices& batch,
                   const CudnnAttention& plan, Context& ctx, F f) {
  if (!ctx.cuda_attentions) ctx.cuda_attentions = std::make_shared<AttentionPlans>();
  const int64_t group = shape.heads / shape.kv_heads;
  GraphShape key{.backward = backward,
                 .ragged = plan.ragged,
                 .sequences = plan.sequences_at_once,
                 .longest = plan.longest,
                 .heads = plan.kv_at_once * group,
                 .kv_heads = plan.kv_at_once,
                 .head_dim = shape.head_dim,
                 .window = std::min(shape.window, plan.longest),
                 .strides = {}};
  for (size_t name = 0; name < tensors.size(); ++name) key.strides[name] = tensors[name].stride;
  const Plan& graph = ctx.cuda_attentions->plan(key, plan.workspace_bytes, ctx.stream);
  if (!graph.graph) return false;
  if (plan.ragged) {
    const auto& s = key.strides;
    list_sequences(plan.lengths, plan.starts, {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]}, batch, ctx);
  }
  for (int64_t s = 0; s < plan.sequences; s += plan.sequences_at_once)
    for (int64_t h = 0; h < shape.kv_heads; h += plan.kv_at_once)
      f(s, h, [&] { run(graph, tensors, s, h, group, shape.head_dim, plan, ctx); });
  return true;
}

}  // namespace

bool cudnn_attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape,
                             const DeviceIndices& batch, const CudnnAttention& plan, Context& ctx) {
  const int64_t group = shape.heads / shape.kv_heads, heads = plan.kv_at_once * group;
  return for_each_part(false, {q, k, v, out}, shape, batch, plan, ctx, [&](int64_t s, int64_t h, auto run_part) {
    run_part();
    scatter_stats(lse.col_range(h * group, heads), plan.stats, heads, s, batch, ctx);
  });
}

bool cudnn_attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor q, Tensor k,
                              Tensor v, const AttentionShape& shape, const DeviceIndices& batch,
                              const CudnnAttention& plan, Context& ctx) {
  const int64_t group = shape.heads / shape.kv_heads, heads = plan.kv_at_once * group;
  const Tensors tensors{q, k, v, out, dout, dq, dk, dv};
  return for_each_part(true, tensors, shape, batch, plan, ctx, [&](int64_t s, int64_t h, auto run_part) {
    gather_stats(plan.stats, lse.col_range(h * group, heads), heads, s, batch, ctx);
    run_part();
  });
}

std::string cudnn_refusal(const Context& ctx) { return ctx.cuda_attentions ? ctx.cuda_attentions->refusal : ""; }

}  // namespace tangram::cuda
#endif
