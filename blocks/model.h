#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "blocks/block.h"
#include "blocks/kv_cache.h"

namespace tangram {

/// A Llama whose blocks may all differ: embedding, blocks, final norm, head.
struct Model {
  ModelConfig config;
  DType dtype = DType::f32;
  Weight embedding;   ///< (V, H)
  Weight head;        ///< (V, H); the embedding's own tensor if tied
  Tensor final_norm;  ///< (1, H)
  std::vector<BlockWeights> blocks;
  std::vector<std::shared_ptr<void>> memory;  ///< what owns the weights: an arena, mapped files

  Architecture architecture() const;
  Device device() const { return embedding.values.device; }
};

/// A tensor of a model with its checkpoint name, such as `model.layers.3.self_attn.q_proj.weight`.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// All tensors of the model in checkpoint order; a tied head is not repeated.
std::vector<NamedTensor> named_tensors(const Model& model);
/// Checkpoint name of a subblock's norm, and of one of its parameters.
std::string norm_name(int64_t layer, Subblock subblock);
std::string param_name(int64_t layer, Subblock subblock, std::string_view param);

/// A model with uninitialised weights in an arena of its own.
Model make_model(const ModelConfig& config, const Architecture& architecture, DType dtype, Device device = Device::cpu);
/// The same in `arena`, which may be a planner and outlives the model.
Model make_model(const ModelConfig& config, const Architecture& architecture, DType dtype, Arena& arena);

/// The model in the memory of another device; where it is there already, the model itself.
Model move_model(const Model& model, Device device, Context& ctx);

/// A deep copy in another dtype (or the same).
Model copy_model(const Model& model, DType dtype);

/// Positions, offsets and rotations of a batch. Owns what `view` points to.
class SequenceBatch {
 public:
  /// Sequences of `lengths[s]` new tokens each, after `past[s]` cached ones (all 0 if `past` is empty). What operations
  /// read lies in `memory`, the context's device's, and takes as much of it for any number of sequences of `tokens()`.
  SequenceBatch(const ModelConfig& config, std::span<const int32_t> lengths, std::span<const int32_t> past,
                Arena& memory, Context& ctx);

  const Sequences& view() const { return view_; }
  int64_t tokens() const { return offsets_->back(); }

 private:
  // On the heap: a batch may be moved, and its view looks at them.
  std::unique_ptr<std::vector<int32_t>> offsets_, past_;
  Sequences view_;
};

/// x[n] = embedding[tokens[n]].
void embed(Tensor x, const Model& model, Indices tokens, Context& ctx);

/// x += attention, then x += ffn: one block on the residual stream x (N, H), nothing saved. `scratch` memory comes from
/// the context.
void block_forward(Tensor x, const BlockWeights& block, const ModelConfig& config, const Sequences& sequences,
                   Context& ctx);

/// hidden (N, H) = final_norm(x).
void final_norm_forward(Tensor hidden, const Model& model, Tensor x, Context& ctx);

/// hidden (N, H), the input of the head, for a packed batch of whole sequences.
void model_hidden(Tensor hidden, const Model& model, Indices tokens, const Sequences& sequences, Context& ctx);

/// Prefill and decode: hidden (N, H) of new tokens, which are added to the cache. A sequence with one token is a decode
/// step, one with many a prefill; a batch may mix them.
void model_infer(Tensor hidden, const Model& model, Indices tokens, const Sequences& sequences, KvCache& cache,
                 Context& ctx);

/// logits (N, V) f32 = hidden head^T. For long batches use the chunked losses instead.
void model_logits(Tensor logits, const Model& model, Tensor hidden, Context& ctx);

/// Everything that the backward pass of a whole model needs.
struct ModelActivations {
  std::vector<Tensor> residual;            ///< input of each subblock, then of the final norm: (N, H), 2 L + 1 of them
  std::vector<SubblockActivations> saved;  ///< 2 L
  Tensor rstd, hidden;                     ///< of the final norm: (1, N) f32, (N, H)
};
ModelActivations make_activations(const Model& model, int64_t tokens, Arena& arena);
void model_forward(ModelActivations& activations, const Model& model, Indices tokens, const Sequences& sequences,
                   Context& ctx);

/// Gradients of all of a model's tensors, f32, in one flat range of memory in the order of named_tensors.
struct ModelGrads {
  Tensor flat;                           ///< (1, parameters)
  Tensor embedding, head, final_norm;    ///< head is the embedding's gradient if tied
  std::vector<SubblockGrads> subblocks;  ///< 2 L: attention, FFN of each block
};
ModelGrads make_grads(const Model& model, Arena& arena);

/// Adds the gradient of a loss on the output of block `layer` to dx (N, H), when the backward pass stands there.
using HiddenGradient = std::function<void(int64_t layer, Tensor dx)>;

/// Accumulates the gradients of all parameters but the head (the loss does that), from dhidden (N, H), the gradient at
/// the head's input; dhidden is overwritten.
void model_backward(ModelGrads& grads, Tensor dhidden, const ModelActivations& activations, const Model& model,
                    Indices tokens, const Sequences& sequences, const HiddenGradient& hidden_gradient, Context& ctx);

}  // namespace tangram
