#include "blocks/model.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

constexpr Subblock kSubblocks[] = {Subblock::attention, Subblock::ffn};

// Allocates all weights in the order of named_tensors.
void allocate_weights(Model& model, const Architecture& architecture, Arena& arena) {
  const ModelConfig& config = model.config;
  model.embedding = arena.tensor(config.vocab_size, config.hidden_size, model.dtype);
  for (const BlockChoice& choice : architecture)
    model.blocks.push_back({make_weights(choice.attention, config, model.dtype, arena),
                            make_weights(choice.ffn, config, model.dtype, arena)});
  model.final_norm = arena.tensor(1, config.hidden_size, model.dtype);
  model.head = config.tie_word_embeddings ? model.embedding
                                          : Weight(arena.tensor(config.vocab_size, config.hidden_size, model.dtype));
}

}  // namespace

Architecture Model::architecture() const {
  Architecture architecture;
  for (const BlockWeights& block : blocks) architecture.push_back({block.attention.choice, block.ffn.choice});
  return architecture;
}

std::string norm_name(int64_t layer, Subblock subblock) {
  return fmt::format("model.layers.{}.{}.weight", layer,
                     subblock == Subblock::attention ? "input_layernorm" : "post_attention_layernorm");
}

std::string param_name(int64_t layer, Subblock subblock, std::string_view param) {
  return fmt::format("model.layers.{}.{}.{}", layer, subblock == Subblock::attention ? "self_attn" : "mlp", param);
}

std::vector<NamedTensor> named_tensors(const Model& model) {
  std::vector<NamedTensor> tensors{{"model.embed_tokens.weight", model.embedding.values}};
  for (size_t l = 0; l < model.blocks.size(); ++l)
    for (Subblock s : kSubblocks) {
      const SubblockWeights& weights = model.blocks[l].of(s);
      const auto layer = static_cast<int64_t>(l);
      if (weights.choice.variant->no_op) continue;
      tensors.push_back({norm_name(layer, s), weights.norm});
      const std::vector<ParamSpec> specs = weights.choice.variant->params({model.config, weights.choice.size});
      for (size_t i = 0; i < specs.size(); ++i)
        tensors.push_back({param_name(layer, s, specs[i].name), weights.params[i].values});
    }
  tensors.push_back({"model.norm.weight", model.final_norm});
  if (!model.config.tie_word_embeddings) tensors.push_back({"lm_head.weight", model.head.values});
  return tensors;
}

Model make_model(const ModelConfig& config, const Architecture& architecture, DType dtype, Arena& arena) {
  CHECK(static_cast<int64_t>(architecture.size()) == config.num_hidden_layers, "{} blocks for {} layers",
        architecture.size(), config.num_hidden_layers);
  Model model{
      .config = config, .dtype = dtype, .embedding = {}, .head = {}, .final_norm = {}, .blocks = {}, .memory = {}};
  allocate_weights(model, architecture, arena);
  return model;
}

Model make_model(const ModelConfig& config, const Architecture& architecture, DType dtype, Device device) {
  Arena planner = Arena::planner();
  make_model(config, architecture, dtype, planner);
  auto arena = std::make_shared<Arena>(planner.used_bytes(), device);
  Model model = make_model(config, architecture, dtype, *arena);
  model.memory.push_back(std::move(arena));
  return model;
}

Model move_model(const Model& model, Device device, Context& ctx) {
  if (model.device() == device) return model;
  Model result = make_model(model.config, model.architecture(), model.dtype, device);
  const std::vector<NamedTensor> from = named_tensors(model), to = named_tensors(result);
  for (size_t i = 0; i < from.size(); ++i) transfer(to[i].tensor, from[i].tensor, ctx);
  return result;
}

Model copy_model(const Model& model, DType dtype) {
  Model result = make_model(model.config, model.architecture(), dtype);
  const std::vector<NamedTensor> from = named_tensors(model), to = named_tensors(result);
  for (size_t i = 0; i < from.size(); ++i) copy(to[i].tensor, from[i].tensor);
  return result;
}

SequenceBatch::SequenceBatch(const ModelConfig& config, std::span<const int32_t> lengths, std::span<const int32_t> past,
                             Arena& memory, Context& ctx)
    : offsets_(std::make_unique<std::vector<int32_t>>(1, 0)),
      past_(std::make_unique<std::vector<int32_t>>(past.begin(), past.end())) {
  past_->resize(lengths.size(), 0);
  std::vector<int32_t> positions;
  for (size_t s = 0; s < lengths.size(); ++s) {
    offsets_->push_back(offsets_->back() + lengths[s]);
    for (int32_t i = 0; i < lengths[s]; ++i) positions.push_back((*past_)[s] + i);
  }
  const auto place = [&](const std::vector<int32_t>& numbers) -> Indices {
    const auto count = std::ssize(numbers);
    const Tensor room = memory.tensor(1, std::max(tokens() + 1, count), DType::i32);
    if (ctx.device == Device::cpu) return numbers;
    transfer(room.col_range(0, count), view_of(numbers.data(), 1, count), ctx);
    return {numbers, room.col_range(0, count)};
  };
  view_.offsets = place(*offsets_);
  view_.past = place(*past_);
  view_.rope = memory.tensor(tokens(), config.head_dim, DType::f32);
  ArenaScope scope(ctx.scratch);
  rope_angles(view_.rope, positions, rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling), ctx);
}

void embed(Tensor x, const Model& model, Indices tokens, Context& ctx) {
  embedding_forward(x, model.embedding.values, tokens, ctx);
}

void block_forward(Tensor x, const BlockWeights& block, const ModelConfig& config, const Sequences& sequences,
                   Context& ctx) {
  for (Subblock s : kSubblocks) {
    const SubblockWeights& weights = block.of(s);
    if (weights.choice.variant->no_op) continue;
    ArenaScope scope(ctx.scratch);
    const Tensor y = ctx.scratch.tensor(x.rows, x.cols, x.dtype);
    SubblockActivations activations = make_activations(weights.choice, config, x.rows, x.dtype, ctx.scratch);
    subblock_forward(y, activations, x, weights, config, sequences, ctx);
    add(x, x, y, ctx);
  }
}

void final_norm_forward(Tensor hidden, const Model& model, Tensor x, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const Tensor rstd = ctx.scratch.tensor(1, x.rows, DType::f32);
  rmsnorm_forward(hidden, rstd, x, model.final_norm, static_cast<float>(model.config.rms_norm_eps), ctx);
}

void model_hidden(Tensor hidden, const Model& model, Indices tokens, const Sequences& sequences, Context& ctx) {
  embed(hidden, model, tokens, ctx);
  for (const BlockWeights& block : model.blocks) block_forward(hidden, block, model.config, sequences, ctx);
  final_norm_forward(hidden, model, hidden, ctx);
}

void model_infer(Tensor hidden, const Model& model, Indices tokens, const Sequences& sequences, KvCache& cache,
                 Context& ctx) {
  CHECK(std::ssize(sequences.past) <= cache.sequences(), "{} sequences for a cache of {}", sequences.past.size(),
        cache.sequences());
  for (size_t s = 0; s < sequences.past.span().size(); ++s)
    CHECK(sequences.past[s] + sequences.offsets[s + 1] - sequences.offsets[s] <= cache.capacity_tokens(),
          "sequence {} outgrows its cache of {} tokens", s, cache.capacity_tokens());
  embed(hidden, model, tokens, ctx);
  const WeightsAtRest at_rest(ctx);
  for (size_t l = 0; l < model.blocks.size(); ++l) {
    LayerCache layer = cache.layer(static_cast<int64_t>(l), ctx);
    PageTable& table = layer.table;  // of the batch's sequences, the first of the cache's
    table.pages = table.pages.first(sequences.past.size() * static_cast<size_t>(table.pages_per_sequence));
    for (Subblock s : kSubblocks) subblock_infer(hidden, model.blocks[l].of(s), model.config, layer, sequences, ctx);
  }
  final_norm_forward(hidden, model, hidden, ctx);
}

void model_logits(Tensor logits, const Model& model, Tensor hidden, Context& ctx) {
  matmul_forward(logits, hidden, model.head, ctx);
}

}  // namespace tangram
