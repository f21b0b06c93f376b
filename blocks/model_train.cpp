#include "blocks/model.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/rmsnorm.h"

namespace tangram {
namespace {

const SubblockWeights& subblock(const Model& model, size_t index) {
  const BlockWeights& block = model.blocks[index / 2];
  return index % 2 == 0 ? block.attention : block.ffn;
}

}  // namespace

ModelActivations make_activations(const Model& model, int64_t tokens, Arena& arena) {
  const int64_t H = model.config.hidden_size;
  ModelActivations activations;
  for (size_t i = 0; i < 2 * model.blocks.size(); ++i) {
    activations.residual.push_back(arena.tensor(tokens, H, model.dtype));
    activations.saved.push_back(make_activations(subblock(model, i).choice, model.config, tokens, model.dtype, arena));
  }
  activations.residual.push_back(arena.tensor(tokens, H, model.dtype));
  activations.rstd = arena.tensor(1, tokens, DType::f32);
  activations.hidden = arena.tensor(tokens, H, model.dtype);
  return activations;
}

void model_forward(ModelActivations& activations, const Model& model, Indices tokens, const Sequences& sequences,
                   Context& ctx) {
  embed(activations.residual[0], model, tokens, ctx);
  for (size_t i = 0; i < activations.saved.size(); ++i) {
    const Tensor x = activations.residual[i], next = activations.residual[i + 1];
    subblock_forward(next, activations.saved[i], x, subblock(model, i), model.config, sequences, ctx);
    add(next, next, x, ctx);
  }
  rmsnorm_forward(activations.hidden, activations.rstd, activations.residual.back(), model.final_norm,
                  static_cast<float>(model.config.rms_norm_eps), ctx);
}

ModelGrads make_grads(const Model& model, Arena& arena) {
  const std::vector<NamedTensor> tensors = named_tensors(model);
  int64_t total = 0;
  for (const NamedTensor& t : tensors) total += t.tensor.size();
  ModelGrads grads;
  grads.flat = arena.tensor(1, total, DType::f32);

  int64_t used = 0;
  const auto next = [&](const Tensor& like) {
    const Tensor part = grads.flat.col_range(used, like.size());
    used += like.size();
    return Tensor{part.data, like.rows, like.cols, like.cols, DType::f32, part.device};
  };
  grads.embedding = next(model.embedding.values);
  for (const BlockWeights& block : model.blocks)
    for (const SubblockWeights* weights : {&block.attention, &block.ffn}) {
      SubblockGrads sub;
      if (!weights->choice.variant->no_op) sub.norm = next(weights->norm);
      for (const Weight& w : weights->params) sub.params.push_back(next(w.values));
      grads.subblocks.push_back(std::move(sub));
    }
  grads.final_norm = next(model.final_norm);
  grads.head = model.config.tie_word_embeddings ? grads.embedding : next(model.head.values);
  return grads;
}

void model_backward(ModelGrads& grads, Tensor dhidden, const ModelActivations& activations, const Model& model,
                    Indices tokens, const Sequences& sequences, const HiddenGradient& hidden_gradient, Context& ctx) {
  const Tensor dx = dhidden;
  rmsnorm_backward(dx, grads.final_norm, dhidden, activations.residual.back(), model.final_norm, activations.rstd, ctx,
                   /*accumulate=*/false);
  for (size_t i = activations.saved.size(); i-- > 0;) {
    if (i % 2 == 1 && hidden_gradient) hidden_gradient(static_cast<int64_t>(i / 2), dx);
    subblock_backward(dx, grads.subblocks[i], dx, activations.residual[i], activations.saved[i], subblock(model, i),
                      model.config, sequences, ctx);
  }
  embedding_backward(grads.embedding, dx, tokens, ctx);
}

}  // namespace tangram
