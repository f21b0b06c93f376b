#include "kernels/head_loss.h"

#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "kernels/head_loss_tile.h"
#include "kernels/matmul.h"
#include "kernels/online_softmax.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

/// Tokens and vocabulary entries whose logits are in memory together.
struct Tile {
  int64_t tokens, vocab;
};

// Fewer tokens than the minimum make the products with the head wait for memory.
constexpr int64_t kMinTileTokens = 64, kChunkedTileTokens = 256, kMaxTileTokens = 1024;

// On a GPU, kMaxTileTokens of Llama 3's 128256 entries with a teacher's and the gradient in bf16.
int64_t default_tile_bytes(Device device) { return int64_t{device == Device::cuda ? 1280 : 128} << 20; }

// The whole vocabulary for as many tokens as fit, since the backward pass then needs no logit twice; if those are too
// few, part of the vocabulary.
Tile tile_of(const HeadInputs& in, bool backward, Device device) {
  const Tensor hidden = in.student.hidden;
  const int64_t N = hidden.rows, V = in.student.weight.values.rows;
  const int64_t element_bytes = 4 + (in.teacher ? 4 : 0) + (backward && hidden.dtype != DType::f32 ? 2 : 0);
  const int64_t bytes = in.tile_bytes > 0 ? in.tile_bytes : default_tile_bytes(device);
  const int64_t elements = bytes / element_bytes, whole_rows = elements / V;
  if (whole_rows >= std::min(N, kMinTileTokens)) return {std::min({N, whole_rows, kMaxTileTokens}), V};
  const int64_t tokens = std::clamp<int64_t>(elements / kSoftmaxSegment, 1, std::min(N, kChunkedTileTokens));
  const int64_t segments = std::max<int64_t>(1, elements / tokens / kSoftmaxSegment);
  return {tokens, std::min(V, segments * kSoftmaxSegment)};
}

/// One call: its arguments and the scratch memory of a tile.
struct Pass {
  const HeadLosses& out;
  const HeadInputs& in;
  Context& ctx;
  int64_t vocab;
  Tile tile;
  bool want_top;
  const int32_t* targets = nullptr;   ///< (N) where the device reads them; null: none
  const float* weights = nullptr;     ///< likewise
  Tensor logits{}, teacher_logits{};  ///< (tile.tokens, tile.vocab)  f32
  Tensor dlogits{};                   ///< like logits, T; the same memory if T is f32
  Tensor dhidden{};                   ///< (tile.tokens, H)  f32
  Tensor states{};                    ///< (tile.tokens, token_state_bytes)  u8

  int64_t last_chunk() const { return (vocab - 1) / tile.vocab * tile.vocab; }
};

const float* weights_on_device(const HeadObjective& objective, Context& ctx) {
  if (objective.weights.empty() || ctx.device == Device::cpu) return objective.weights.data();
  const auto N = std::ssize(objective.weights);
  const Tensor sent = ctx.scratch.tensor(1, N, DType::f32);
  transfer(sent, view_of(objective.weights.data(), 1, N), ctx);
  return sent.as<float>();
}

Pass make_pass(const HeadLosses& out, const HeadInputs& in, const HeadObjective* objective, Context& ctx) {
  const Tensor hidden = in.student.hidden;
  const Tile tile = tile_of(in, objective != nullptr, ctx.device);
  Pass pass{.out = out,
            .in = in,
            .ctx = ctx,
            .vocab = in.student.weight.values.rows,
            .tile = tile,
            .want_top = out.greedy.data || out.teacher_rank.data};
  if (!in.targets.empty()) pass.targets = in.targets.on_device(ctx);
  pass.logits = ctx.scratch.tensor(tile.tokens, tile.vocab, DType::f32);
  if (in.teacher) pass.teacher_logits = ctx.scratch.tensor(tile.tokens, tile.vocab, DType::f32);
  pass.states = ctx.scratch.tensor(tile.tokens, token_state_bytes(ctx.device), DType::u8);
  if (!objective) return pass;
  pass.weights = weights_on_device(*objective, ctx);
  const bool in_place = hidden.dtype == DType::f32;
  pass.dlogits = in_place ? pass.logits : ctx.scratch.tensor(tile.tokens, tile.vocab, hidden.dtype);
  pass.dhidden = ctx.scratch.tensor(tile.tokens, hidden.cols, DType::f32);
  return pass;
}

/// Tokens [first, first + count) and vocabulary entries [vocab_first, vocab_first + vocab_count).
struct Chunk {
  int64_t first, count, vocab_first, vocab_count;
};

Chunk chunk_at(const Pass& pass, int64_t first, int64_t vocab_first) {
  return {first, std::min(pass.tile.tokens, pass.in.student.hidden.rows - first), vocab_first,
          std::min(pass.tile.vocab, pass.vocab - vocab_first)};
}

Weight weight_rows(const Weight& weight, const Chunk& chunk) {
  return weight.values.row_range(chunk.vocab_first, chunk.vocab_count);
}

Tensor part_of(Tensor x, const Chunk& chunk) {
  return x.data ? x.row_range(0, chunk.count).col_range(0, chunk.vocab_count) : x;
}

LogitTile logits_of(const Pass& pass, const Chunk& chunk) {
  return {part_of(pass.logits, chunk), part_of(pass.teacher_logits, chunk), chunk.vocab_first};
}

TileTokens tokens_of(const Pass& pass, const Chunk& chunk) {
  return {pass.states.row_range(0, chunk.count), pass.targets ? pass.targets + chunk.first : nullptr,
          pass.weights ? pass.weights + chunk.first : nullptr};
}

void compute_logits(Pass& pass, const Chunk& chunk) {
  const auto product = [&](Tensor logits, const Head& head) {
    matmul_forward(logits, head.hidden.row_range(chunk.first, chunk.count), weight_rows(head.weight, chunk), pass.ctx);
  };
  const LogitTile logits = logits_of(pass, chunk);
  product(logits.student, pass.in.student);
  if (pass.in.teacher) product(logits.teacher, *pass.in.teacher);
}

void forward_tile(Pass& pass, int64_t first) {
  for (int64_t v = 0; v < pass.vocab; v += pass.tile.vocab) {
    const Chunk chunk = chunk_at(pass, first, v);
    compute_logits(pass, chunk);
    add_logits(tokens_of(pass, chunk), logits_of(pass, chunk), pass.want_top, pass.ctx);
  }
  const Chunk chunk = chunk_at(pass, first, 0);
  const auto part = [&](Tensor x) { return x.data ? x.col_range(first, chunk.count) : x; };
  const HeadLosses& out = pass.out;
  write_losses({part(out.cross_entropy), part(out.kl), part(out.greedy), part(out.teacher_rank)},
               tokens_of(pass, chunk), pass.ctx);
}

void backward_tile(Pass& pass, int64_t first, Tensor dhidden, Tensor dweight, const HeadObjective& objective) {
  const int64_t count = chunk_at(pass, first, 0).count;
  const Tensor hidden = pass.in.student.hidden.row_range(first, count), dhidden_sum = pass.dhidden.row_range(0, count);
  const int64_t last = pass.last_chunk();
  for (int64_t v = last; v >= 0; v -= pass.tile.vocab) {  // backwards: the logits of the last chunk are still there
    const Chunk chunk = chunk_at(pass, first, v);
    if (v != last) compute_logits(pass, chunk);
    const Tensor dlogits = part_of(pass.dlogits, chunk);
    write_gradient(dlogits, logits_of(pass, chunk), tokens_of(pass, chunk), objective, pass.ctx);
    matmul_backward_input(dhidden_sum, dlogits, weight_rows(pass.in.student.weight, chunk), pass.ctx, v != last);
    if (dweight.data)
      matmul_backward_weight(dweight.row_range(chunk.vocab_first, chunk.vocab_count), dlogits, hidden, pass.ctx);
  }
  copy(dhidden.row_range(first, count), dhidden_sum, pass.ctx);
}

void check_head(const char* role, const Head& head, int64_t N, int64_t V) {
  const Tensor hidden = head.hidden, weight = head.weight.values;
  CHECK(hidden.rows == N && weight.rows == V && hidden.cols == weight.cols && hidden.dtype == weight.dtype,
        "{}: hidden ({}, {}) {}, head ({}, {}) {}; expected {} tokens, {} vocabulary entries", role, hidden.rows,
        hidden.cols, name_of(hidden.dtype), weight.rows, weight.cols, name_of(weight.dtype), N, V);
}

void check_result(const char* name, Tensor x, DType dtype, int64_t N, bool has_input, const char* input) {
  if (!x.data) return;
  CHECK(has_input, "{} needs {}", name, input);
  check_tensor(name, x, 1, N, dtype);
}

void check_forward(const HeadLosses& out, const HeadInputs& in) {
  const int64_t N = in.student.hidden.rows, V = in.student.weight.values.rows;
  CHECK(V > 0, "the vocabulary is empty");
  check_head("student", in.student, N, V);
  if (in.teacher) check_head("teacher", *in.teacher, N, V);
  check_result("cross_entropy", out.cross_entropy, DType::f32, N, !in.targets.empty() || N == 0, "targets");
  check_result("kl", out.kl, DType::f32, N, in.teacher.has_value(), "a teacher");
  check_result("greedy", out.greedy, DType::i32, N, true, "");
  check_result("teacher_rank", out.teacher_rank, DType::i32, N, in.teacher.has_value(), "a teacher");
  if (in.targets.empty()) return;
  CHECK(int64_t(in.targets.size()) == N, "{} targets for {} tokens", in.targets.size(), N);
  for (int64_t n = 0; n < std::ssize(in.targets.span()); ++n)
    if (in.targets[n] >= V)
      throw bad_input("target {} of token {}: the vocabulary has {} entries", in.targets[n], n, V);
}

void check_backward(Tensor dhidden, Tensor dweight, const HeadInputs& in, const HeadObjective& objective) {
  const Tensor hidden = in.student.hidden, weight = in.student.weight.values;
  check_tensor("dhidden", dhidden, hidden.rows, hidden.cols, hidden.dtype);
  if (dweight.data) check_tensor("dweight", dweight, weight.rows, weight.cols, DType::f32);
  CHECK(objective.weights.empty() || int64_t(objective.weights.size()) == hidden.rows, "{} weights for {} tokens",
        objective.weights.size(), hidden.rows);
  CHECK(objective.cross_entropy_scale == 0 || !in.targets.empty() || hidden.rows == 0, "cross-entropy needs targets");
  CHECK(objective.kl_scale == 0 || in.teacher, "kl needs a teacher");
}

}  // namespace

void head_loss_forward(const HeadLosses& out, const HeadInputs& in, Context& ctx) {
  check_forward(out, in);
  const ArenaScope scope(ctx.scratch);
  Pass pass = make_pass(out, in, nullptr, ctx);
  for (int64_t n = 0; n < in.student.hidden.rows; n += pass.tile.tokens) forward_tile(pass, n);
}

void head_loss_forward_backward(const HeadLosses& out, Tensor dhidden, Tensor dweight, const HeadInputs& in,
                                const HeadObjective& objective, Context& ctx) {
  check_forward(out, in);
  check_backward(dhidden, dweight, in, objective);
  const ArenaScope scope(ctx.scratch);
  Pass pass = make_pass(out, in, &objective, ctx);
  for (int64_t n = 0; n < in.student.hidden.rows; n += pass.tile.tokens) {
    forward_tile(pass, n);
    backward_tile(pass, n, dhidden, dweight, objective);
  }
}

}  // namespace tangram
