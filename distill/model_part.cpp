#include "distill/model_part.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

constexpr Subblock kSubblocks[] = {Subblock::attention, Subblock::ffn};

bool has_head(const Model& model, int64_t end) { return end == std::ssize(model.blocks); }

// Weights for the part, in the order of part_tensors, then a tied head that is none of the part's embedding.
void allocate(Model& model, int64_t begin, int64_t end, DType dtype, Arena& arena) {
  const ModelConfig& config = model.config;
  const auto matrix = [&] { return Weight(arena.tensor(config.vocab_size, config.hidden_size, dtype)); };
  if (begin == 0) model.embedding = matrix();
  for (int64_t b = begin; b < end; ++b)
    for (const Subblock s : kSubblocks) {
      SubblockWeights& weights = model.blocks[static_cast<size_t>(b)].of(s);
      weights = make_weights(weights.choice, config, dtype, arena);
    }
  model.dtype = dtype;
  if (!has_head(model, end)) return;
  model.final_norm = arena.tensor(1, config.hidden_size, dtype);
  model.head = config.tie_word_embeddings && begin == 0 ? model.embedding : matrix();
}

const SubblockWeights& subblock(std::span<const BlockWeights> blocks, size_t index) {
  return blocks[index / 2].of(kSubblocks[index % 2]);
}

}  // namespace

Slice part_slice(const Model& model, int64_t begin, int64_t end) {
  const auto tensors_before = [&](int64_t block) {
    int64_t count = 1;  // the embedding
    for (int64_t b = 0; b < block; ++b)
      for (const Subblock s : kSubblocks) {
        const SubblockWeights& weights = model.blocks[static_cast<size_t>(b)].of(s);
        if (!weights.choice.variant->no_op) count += 1 + std::ssize(weights.params);
      }
    return count;
  };
  const int64_t first = begin == 0 ? 0 : tensors_before(begin);
  const int64_t behind = !has_head(model, end) ? 0 : model.config.tie_word_embeddings ? 1 : 2;
  return {first, tensors_before(end) + behind - first};
}

std::vector<NamedTensor> part_tensors(const Model& model, int64_t begin, int64_t end) {
  const std::vector<NamedTensor> all = named_tensors(model);
  const Slice part = part_slice(model, begin, end);
  return {all.begin() + part.first, all.begin() + part.first + part.count};
}

Model copy_part(const Model& model, int64_t begin, int64_t end, DType dtype, Context& ctx) {
  Model planned = model, result = model;
  Arena planner = Arena::planner(ctx.device);
  allocate(planned, begin, end, dtype, planner);
  auto arena = std::make_shared<Arena>(planner.used_bytes(), ctx.device);
  allocate(result, begin, end, dtype, *arena);
  result.memory.push_back(std::move(arena));

  const auto copy_tensor = [&](Tensor to, Tensor from) {
    if (ctx.device == Device::cpu) return copy(to, from);
    Arena host(round_up(from.size() * size_of(dtype), 64));
    const Tensor converted = host.tensor(from.rows, from.cols, dtype);
    copy(converted, from);
    transfer(to, converted, ctx);
    synchronize(ctx);
  };
  const std::vector<NamedTensor> from = part_tensors(model, begin, end), to = part_tensors(result, begin, end);
  for (size_t i = 0; i < from.size(); ++i) copy_tensor(to[i].tensor, from[i].tensor);
  if (has_head(model, end) && model.config.tie_word_embeddings && begin > 0)
    copy_tensor(result.head.values, model.head.values);
  return result;
}

BlockActivations make_activations(std::span<const BlockWeights> blocks, const ModelConfig& config, int64_t tokens,
                                  DType dtype, Arena& arena) {
  BlockActivations activations{.residual = {Tensor{}}, .saved = {}};
  for (size_t i = 0; i < 2 * blocks.size(); ++i) {
    activations.saved.push_back(make_activations(subblock(blocks, i).choice, config, tokens, dtype, arena));
    activations.residual.push_back(arena.tensor(tokens, config.hidden_size, dtype));
  }
  return activations;
}

void blocks_forward(BlockActivations& activations, std::span<const BlockWeights> blocks, const ModelConfig& config,
                    const Sequences& sequences, Context& ctx) {
  for (size_t i = 0; i < activations.saved.size(); ++i) {
    const Tensor x = activations.residual[i], next = activations.residual[i + 1];
    subblock_forward(next, activations.saved[i], x, subblock(blocks, i), config, sequences, ctx);
    add(next, next, x, ctx);
  }
}

void blocks_backward(Tensor dx, std::span<SubblockGrads> grads, const BlockActivations& activations,
                     std::span<const BlockWeights> blocks, const ModelConfig& config, const Sequences& sequences,
                     const HiddenGradient& hidden_gradient, Context& ctx) {
  for (size_t i = activations.saved.size(); i-- > 0;) {
    if (i % 2 == 1 && hidden_gradient) hidden_gradient(static_cast<int64_t>(i / 2), dx);
    subblock_backward(dx, grads[i], dx, activations.residual[i], activations.saved[i], subblock(blocks, i), config,
                      sequences, ctx);
  }
}

}  // namespace tangram
