#include "blocks/softmax_attention.h"

#include "blocks/block.h"
#include "blocks/initialise.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

struct Qkv {
  Tensor q, k, v;
};

Qkv split_projection(Tensor proj, const AttentionShape& s) {
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  return {proj.col_range(0, q), proj.col_range(q, kv), proj.col_range(q + kv, kv)};
}

void average_heads(Tensor child, Tensor teacher, int64_t head_dim) {
  const int64_t group = teacher.rows / child.rows;
  std::vector<float> sum(static_cast<size_t>(child.cols));
  for (int64_t r = 0; r < child.rows; ++r) {
    const int64_t first = (r / head_dim) * group * head_dim + r % head_dim;
    std::fill(sum.begin(), sum.end(), 0.0f);
    dispatch(teacher.dtype, [&]<class T>() {
      for (int64_t g = 0; g < group; ++g)
        for (int64_t c = 0; c < child.cols; ++c) sum[c] += float(teacher.row<T>(first + g * head_dim)[c]);
    });
    for (float& v : sum) v /= float(group);
    copy(child.row_range(r, 1), view_of(sum.data(), 1, child.cols));
  }
}

}  // namespace

std::vector<ParamSpec> softmax_attention_params(const AttentionShape& s, const ModelConfig& config) {
  const int64_t H = config.hidden_size, q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  return {{"q_proj.weight", q, H, SplitAxis::rows, true},
          {"k_proj.weight", kv, H, SplitAxis::rows, true},
          {"v_proj.weight", kv, H, SplitAxis::rows, true},
          {"o_proj.weight", H, q, SplitAxis::cols, false}};
}

std::vector<SavedSpec> softmax_attention_saved(const AttentionShape& s) {
  return {{s.heads * s.head_dim, false}, {s.heads, true}};  // attention's output, log-sum-exp
}

Cost softmax_attention_cost(const AttentionShape& s, const ModelConfig& config) {
  const int64_t kv = s.kv_heads * s.head_dim;
  return {.flops_per_token = 2.0 * double(config.hidden_size) * double(2 * s.heads * s.head_dim + 2 * kv),
          .kv_elements = 2 * kv,
          .kv_tokens_at_most = s.window};
}

void softmax_attention_init(std::span<const Weight> child, std::span<const Weight> teacher, const AttentionShape& shape,
                            const ModelConfig&, const InitInputs& inputs) {
  if (inputs.method == Init::random) return init_random(child, teacher, inputs.seed);
  copy(child[0].values, teacher[0].values);
  average_heads(child[1].values, teacher[1].values, shape.head_dim);
  average_heads(child[2].values, teacher[2].values, shape.head_dim);
  copy(child[3].values, teacher[3].values);
}

void softmax_attention_forward(Tensor y, Tensor proj, Saved saved, Params params, const AttentionShape& shape,
                               const Sequences& sequences, Context& ctx) {
  const auto [q, k, v] = split_projection(proj, shape);
  rope_forward(q, sequences.rope, ctx);
  rope_forward(k, sequences.rope, ctx);
  attention_forward(saved[0], saved[1], q, k, v, shape, sequences.offsets, ctx);
  matmul_forward(y, saved[0], params[3], ctx);
}

void softmax_attention_backward(Tensor dproj, Grads grads, Tensor dy, Tensor proj, Saved saved, Params params,
                                const AttentionShape& shape, const Sequences& sequences, Context& ctx) {
  const auto [q, k, v] = split_projection(proj, shape);
  const auto [dq, dk, dv] = split_projection(dproj, shape);
  ArenaScope scope(ctx.scratch);
  const Tensor dout = ctx.scratch.tensor(q.rows, q.cols, q.dtype);
  matmul_backward_input(dout, dy, params[3], ctx);
  matmul_backward_weight(grads[3], dy, saved[0], ctx);
  attention_backward(dq, dk, dv, dout, saved[0], saved[1], q, k, v, shape, sequences.offsets, ctx);
  rope_backward(dq, sequences.rope, ctx);
  rope_backward(dk, sequences.rope, ctx);
}

namespace {

/// New tokens whose keys are written before their queries look: rows of the batch, and whose.
struct Part {
  int64_t sequence, first_row, rows, past;
};

// The batch in parts that a layer's ring takes at once; empty where it takes all of it.
std::vector<Part> ring_parts(const LayerCache& cache, const Sequences& sequences) {
  const std::span<const int32_t> offsets = sequences.offsets.span(), past = sequences.past.span();
  std::vector<Part> parts;
  bool fits = true;
  for (size_t s = 0; s < past.size(); ++s)  // only a GPU knows those of a graph, which bring one token each
    fits = fits && offsets[s + 1] - offsets[s] <= cache.tokens_at_once;
  if (fits) return parts;
  for (size_t s = 0; s < past.size(); ++s)
    for (int64_t n = offsets[s]; n < offsets[s + 1]; n += parts.back().rows)
      parts.push_back(
          {static_cast<int64_t>(s), n, std::min(cache.tokens_at_once, offsets[s + 1] - n), past[s] + n - offsets[s]});
  return parts;
}

// Writes and attends part by part: each overwrites only what those after it do not look at.
void attend_in_parts(Tensor out, Tensor q, Tensor k, Tensor v, std::span<const Part> parts, const AttentionShape& shape,
                     const LayerCache& cache, const Sequences& sequences, Context& ctx) {
  std::vector<int32_t> numbers;  // of each part: its offsets 0 and rows, and what is cached before it
  for (const Part& p : parts)
    numbers.insert(numbers.end(), {0, static_cast<int32_t>(p.rows), static_cast<int32_t>(p.past)});
  ArenaScope scope(ctx.scratch);
  Tensor sent;
  if (ctx.device == Device::cuda) {
    sent = ctx.scratch.tensor(1, std::ssize(numbers), DType::i32);
    transfer(sent, view_of(numbers.data(), 1, std::ssize(numbers)), ctx);
  }
  const auto list = [&](size_t first, size_t count) {
    const auto host = std::span<const int32_t>(numbers).subspan(first, count);
    return sent.cols > 0 ? Indices(host, sent.col_range(int64_t(first), int64_t(count))) : Indices(host);
  };
  const PageTable table{cache.table.pages.first(static_cast<size_t>(cache.table.pages_per_sequence)),
                        cache.table.pages_per_sequence};
  const int64_t ring = sequences.past.size() > 1  // where the second sequence's begins
                           ? cache.table.pages[static_cast<size_t>(table.pages_per_sequence)] * cache.pages.page_tokens
                           : cache.pages.keys.rows;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& p = parts[i];
    const auto rows_of = [&](Tensor x) { return x.row_range(p.first_row, p.rows); };
    const KvPages pages{cache.pages.keys.row_range(p.sequence * ring, ring),
                        cache.pages.values.row_range(p.sequence * ring, ring), cache.pages.page_tokens};
    const Indices offsets = list(3 * i, 2), past = list(3 * i + 2, 1);
    rope_kv_write(pages, rows_of(q), rows_of(k), rows_of(v), rows_of(sequences.rope), table, offsets, past, ctx);
    attention_cached(rows_of(out), rows_of(q), pages, table, shape, offsets, past, ctx);
  }
}

}  // namespace

void softmax_attention_infer(Tensor y, const Normed& x, Params params, const AttentionShape& shape,
                             const LayerCache& cache, const Sequences& sequences, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const int64_t width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  const Tensor proj = ctx.scratch.tensor(y.rows, width + 2 * kv_width, y.dtype);
  const Tensor out = ctx.scratch.tensor(y.rows, width, y.dtype);
  norm_matmul(proj, x, params.first(3), ctx);
  const auto [q, k, v] = split_projection(proj, shape);
  if (const std::vector<Part> parts = ring_parts(cache, sequences); !parts.empty()) {
    attend_in_parts(out, q, k, v, parts, shape, cache, sequences, ctx);
  } else {
    rope_kv_write(cache.pages, q, k, v, sequences.rope, cache.table, sequences.offsets, sequences.past, ctx);
    attention_cached(out, q, cache.pages, cache.table, shape, sequences.offsets, sequences.past, ctx);
  }
  matmul_forward(y, out, params[3], ctx, /*accumulate=*/true);
}

}  // namespace tangram
