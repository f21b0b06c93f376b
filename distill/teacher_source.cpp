#include "distill/teacher_source.h"

#include "blocks/checkpoint.h"
#include "kernels/embedding.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

/// Memory for what `lay_out(arena)` takes from a host's arena, filled by it.
template <class F>
auto in_own_memory(std::optional<Arena>& memory, F lay_out) {
  Arena planner = Arena::planner();
  lay_out(planner);
  memory.emplace(planner.used_bytes());
  return lay_out(*memory);
}

/// What of a streamed teacher is in memory.
class StreamedTeacher {
 public:
  StreamedTeacher(const std::filesystem::path& folder, DType dtype) : checkpoint_(folder, dtype) {}

  const ModelConfig& config() const { return checkpoint_.config(); }

  void embed(Tensor x, std::span<const int32_t> tokens, Context& ctx) {
    if (!embedding_.data) load_embedding(ctx);
    embedding_forward(x, embedding_, tokens, ctx);
  }

  const BlockWeights& layer(int64_t index, Context& ctx) {
    if (index == loaded_) return block_;
    if (index > 0) embedding_ = {}, embedding_memory_.reset();
    checkpoint_.release(loaded_);
    block_ = {}, host_.reset(), device_.reset();
    block_ = in_own_memory(host_, [&](Arena& memory) { return checkpoint_.block(index, memory); });
    if (ctx.device != Device::cpu) upload(ctx);
    checkpoint_.prefetch(index + 1);
    loaded_ = index;
    return block_;
  }

 private:
  void load_embedding(Context& ctx) {
    embedding_ = in_own_memory(embedding_memory_, [&](Arena& memory) { return checkpoint_.embedding(memory); }).values;
    if (ctx.device == Device::cpu) return;
    const Tensor host = embedding_;
    Arena memory(host.bytes(), ctx.device);
    embedding_ = memory.tensor(host.rows, host.cols, host.dtype);
    transfer(embedding_, host, ctx);
    embedding_memory_.emplace(std::move(memory));
  }

  void upload(Context& ctx) {
    const ModelConfig& config = checkpoint_.config();
    const auto copies = [&](Arena& memory, Context& context) {
      return BlockWeights{copy_weights(block_.attention, config, memory, context),
                          copy_weights(block_.ffn, config, memory, context)};
    };
    Arena planner = Arena::planner(ctx.device);
    Context planning({.device = ctx.device, .planning = true});
    copies(planner, planning);
    device_.emplace(planner.used_bytes(), ctx.device);
    block_ = copies(*device_, ctx);
    host_.reset();
  }

  CheckpointReader checkpoint_;
  int64_t loaded_ = -1;
  std::optional<Arena> host_, device_, embedding_memory_;
  BlockWeights block_;
  Tensor embedding_;
};

}  // namespace

TeacherSource teacher_in_memory(const Model& teacher) {
  return {.config = teacher.config,
          .dtype = teacher.dtype,
          .embed = [&teacher](Tensor x, std::span<const int32_t> tokens,
                              Context& ctx) { embedding_forward(x, teacher.embedding.values, tokens, ctx); },
          .layer = [&teacher](int64_t layer, Context&) -> const BlockWeights& {
            return teacher.blocks.at(static_cast<size_t>(layer));
          }};
}

TeacherSource teacher_part(const Model& teacher, int64_t begin, int64_t end, Context& ctx) {
  if (teacher.device() == ctx.device) return teacher_in_memory(teacher);
  struct Part {
    Tensor embedding;
    std::vector<BlockWeights> blocks;
    std::optional<Arena> memory;
  };
  const auto copies = [&](Arena& memory, Context& context) {
    Part part;
    if (begin == 0) {
      const Tensor host = teacher.embedding.values;
      part.embedding = memory.tensor(host.rows, host.cols, host.dtype);
      if (!context.planning()) transfer(part.embedding, host, context);
    }
    for (int64_t layer = begin; layer < end; ++layer) {
      const BlockWeights& block = teacher.blocks.at(static_cast<size_t>(layer));
      part.blocks.push_back({copy_weights(block.attention, teacher.config, memory, context),
                             copy_weights(block.ffn, teacher.config, memory, context)});
    }
    return part;
  };
  Arena planner = Arena::planner(ctx.device), memory = [&] {
    Context planning({.device = ctx.device, .planning = true});
    copies(planner, planning);
    return Arena(planner.used_bytes(), ctx.device);
  }();
  const auto part = std::make_shared<Part>(copies(memory, ctx));
  part->memory.emplace(std::move(memory));
  return {.config = teacher.config,
          .dtype = teacher.dtype,
          .embed = [part](Tensor x, std::span<const int32_t> tokens,
                          Context& context) { embedding_forward(x, part->embedding, tokens, context); },
          .layer = [part, begin](int64_t layer, Context&) -> const BlockWeights& {
            return part->blocks.at(static_cast<size_t>(layer - begin));
          }};
}

TeacherSource streamed_teacher(const std::filesystem::path& folder, DType dtype) {
  const auto teacher = std::make_shared<StreamedTeacher>(folder, dtype);
  return {
      .config = teacher->config(),
      .dtype = dtype,
      .embed = [teacher](Tensor x, std::span<const int32_t> tokens, Context& ctx) { teacher->embed(x, tokens, ctx); },
      .layer = [teacher](int64_t layer, Context& ctx) -> const BlockWeights& { return teacher->layer(layer, ctx); }};
}

TeacherSource planned_teacher(const ModelConfig& config, DType dtype, Device device) {
  struct Nowhere {
    Arena memory;
    Tensor embedding;
    BlockWeights block;
  };
  const auto weights = std::make_shared<Nowhere>(Nowhere{Arena::planner(device), {}, {}});
  weights->embedding = weights->memory.tensor(config.vocab_size, config.hidden_size, dtype);
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    weights->block.of(s) = make_weights(teacher_choice(s, config), config, dtype, weights->memory);
  return {.config = config,
          .dtype = dtype,
          .embed = [weights](Tensor x, std::span<const int32_t> tokens,
                             Context& ctx) { embedding_forward(x, weights->embedding, tokens, ctx); },
          .layer = [weights](int64_t, Context&) -> const BlockWeights& { return weights->block; }};
}

}  // namespace tangram
