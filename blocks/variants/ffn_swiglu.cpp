// The FFN of Llama at any width I (Shazeer 2020, arXiv:2002.05202):
//
//   h = silu(x w_gate^T) * (x w_up^T)     y = h w_down^T
//
// Narrowed by keeping the channels that contribute most to the output, mean |h_i| * ||w_down[:, i]|| (Bercovich et al.
// 2024, arXiv:2411.19146, appendix A), with w_down either cut or solved again for the kept channels.

#include <algorithm>
#include <numeric>

#include "blocks/block.h"
#include "blocks/initialise.h"
#include "kernels/least_squares.h"
#include "kernels/swiglu.h"

namespace tangram {
namespace {

std::vector<ParamSpec> params(VariantShape s) {
  const int64_t H = s.config.hidden_size, I = s.size;
  return {{"gate_proj.weight", I, H, SplitAxis::rows, true},
          {"up_proj.weight", I, H, SplitAxis::rows, true},
          {"down_proj.weight", H, I, SplitAxis::cols, false}};
}

// The `width` channels with the largest contribution, in their order in the teacher. Ties go to the lower channel, so a
// narrower FFN keeps a subset of a wider one's channels.
std::vector<int64_t> kept_channels(Tensor contribution, int64_t width) {
  std::vector<int64_t> channels(static_cast<size_t>(contribution.cols));
  std::iota(channels.begin(), channels.end(), int64_t{0});
  const float* value = contribution.as<float>();
  std::stable_sort(channels.begin(), channels.end(), [&](int64_t a, int64_t b) { return value[a] > value[b]; });
  channels.resize(static_cast<size_t>(width));
  std::sort(channels.begin(), channels.end());
  return channels;
}

void copy_columns(Tensor child, Tensor teacher, const std::vector<int64_t>& columns) {
  for (size_t i = 0; i < columns.size(); ++i)
    copy(child.col_range(static_cast<int64_t>(i), 1), teacher.col_range(columns[i], 1));
}

// down^T (K, H) = (hh_KK + ridge)^-1 hh_K: w_down^T, which minimises mean ||h_K down^T - h w_down^T||^2.
void solve_down(Tensor down, Tensor teacher_down, Tensor hh, const std::vector<int64_t>& kept, Context& ctx) {
  const int64_t K = down.cols, H = down.rows, I = teacher_down.cols;
  ArenaScope scope(ctx.scratch);
  const Tensor rows = ctx.scratch.tensor(K, I, DType::f32);
  const Tensor moments = ctx.scratch.tensor(K, K, DType::f32);
  const Tensor teacher_f32 = ctx.scratch.tensor(H, I, DType::f32);
  const Tensor transposed = ctx.scratch.tensor(K, H, DType::f32);
  for (int64_t i = 0; i < K; ++i) copy(rows.row_range(i, 1), hh.row_range(kept[i], 1));
  copy_columns(moments, rows, kept);
  copy(teacher_f32, teacher_down);
  matmul(transposed, rows, Transpose::no, teacher_f32, Transpose::yes, false, ctx);
  solve_least_squares(transposed, moments, transposed, kRelativeRidge, ctx);
  dispatch(down.dtype, [&]<class T>() {
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < K; ++i) down.row<T>(h)[i] = T(transposed.row<float>(i)[h]);
  });
}

void init_from_teacher(std::span<const Weight> child, std::span<const Weight> teacher, VariantShape s,
                       const InitInputs& inputs, Context& ctx) {
  if (inputs.method == Init::random) return init_random(child, teacher, inputs.seed);
  if (s.size == s.config.intermediate_size) {
    for (size_t i = 0; i < child.size(); ++i) copy(child[i].values, teacher[i].values);
    return;
  }
  const std::vector<int64_t> kept = kept_channels(inputs.statistics->contribution, s.size);
  for (int64_t i = 0; i < s.size; ++i) {
    copy(child[0].values.row_range(i, 1), teacher[0].values.row_range(kept[i], 1));
    copy(child[1].values.row_range(i, 1), teacher[1].values.row_range(kept[i], 1));
  }
  if (inputs.method == Init::least_squares)
    solve_down(child[2].values, teacher[2].values, inputs.statistics->hh, kept, ctx);
  else
    copy_columns(child[2].values, teacher[2].values, kept);
}

void forward(Tensor y, Tensor proj, Saved saved, Params params, VariantShape s, const Sequences&, Context& ctx) {
  swiglu_forward(saved[0], proj.col_range(0, s.size), proj.col_range(s.size, s.size), ctx);
  matmul_forward(y, saved[0], params[2], ctx);
}

void backward(Tensor dproj, Grads grads, Tensor dy, Tensor proj, Saved saved, Params params, VariantShape s,
              const Sequences&, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const Tensor dh = ctx.scratch.tensor(dy.rows, s.size, dy.dtype);
  matmul_backward_input(dh, dy, params[2], ctx);
  matmul_backward_weight(grads[2], dy, saved[0], ctx);
  swiglu_backward(dproj.col_range(0, s.size), dproj.col_range(s.size, s.size), dh, proj.col_range(0, s.size),
                  proj.col_range(s.size, s.size), ctx);
}

void infer(Tensor y, const Normed& x, Params weights, VariantShape s, const LayerCache&, const Sequences&,
           Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const Tensor h = ctx.scratch.tensor(y.rows, s.size, y.dtype);
  norm_matmul_swiglu(h, x, weights[0], weights[1], ctx);
  matmul_forward(y, h, weights[2], ctx, /*accumulate=*/true);
}

}  // namespace

extern const Variant ffn_swiglu{
    .name = "ffn",
    .subblock = Subblock::ffn,
    .sized = true,
    .no_op = false,
    .check_size =
        [](const ModelConfig& config, int64_t size) {
          if (size < 1 || size > config.intermediate_size)
            throw bad_input("ffn_{}: the width is from 1 to the teacher's {}", size, config.intermediate_size);
        },
    .params = params,
    .saved =
        [](VariantShape s) {
          return std::vector<SavedSpec>{{s.size, false}};
        },
    .cost =
        [](VariantShape s) {
          return Cost{.flops_per_token = 6.0 * double(s.config.hidden_size) * double(s.size),
                      .kv_elements = 0,
                      .kv_tokens_at_most = 0};
        },
    .init_from_teacher = init_from_teacher,
    .forward = forward,
    .backward = backward,
    .infer = infer,
};

}  // namespace tangram
