#include "distill/statistics.h"

#include <cmath>

#include "blocks/safetensors.h"
#include "kernels/elementwise.h"
#include "kernels/magnitudes.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

void lay_out(LayerStatistics& s, const ModelConfig& config, Arena& arena) {
  const int64_t H = config.hidden_size, I = config.intermediate_size;
  for (SubblockStatistics* sub : {&s.attention, &s.ffn}) {
    sub->xx = arena.tensor(H, H, DType::f32);
    sub->xy = arena.tensor(H, H, DType::f32);
  }
  s.ffn.hh = arena.tensor(I, I, DType::f32);
  s.ffn.contribution = arena.tensor(1, I, DType::f32);
}

LayerStatistics make_statistics(const ModelConfig& config, Device device) {
  LayerStatistics statistics;
  auto arena = std::make_shared<Arena>(statistics_bytes(config), device);
  lay_out(statistics, config, *arena);
  statistics.memory = arena;
  return statistics;
}

std::vector<NamedTensor> named(const LayerStatistics& s) {
  return {{"attention.xx", s.attention.xx},
          {"attention.xy", s.attention.xy},
          {"ffn.xx", s.ffn.xx},
          {"ffn.xy", s.ffn.xy},
          {"ffn.hh", s.ffn.hh},
          {"ffn.contribution", s.ffn.contribution}};
}

void accumulate(LayerStatistics& s, const TeacherLayer& layer, Context& ctx) {
  for (Subblock sub : {Subblock::attention, Subblock::ffn}) {
    SubblockStatistics& statistics = sub == Subblock::attention ? s.attention : s.ffn;
    const Tensor x = layer.activations(sub).x;
    matmul_backward_weight(statistics.xx, x, x, ctx);
    matmul_backward_weight(statistics.xy, x, layer.output_of(sub), ctx);
    statistics.tokens += double(x.rows);
  }
  const Tensor h = layer.ffn.saved[0];
  matmul_backward_weight(s.ffn.hh, h, h, ctx);
  add_column_magnitudes(s.ffn.contribution, h, ctx);
}

LayerStatistics on_host(const LayerStatistics& sums, const ModelConfig& config, Context& ctx) {
  if (ctx.device == Device::cpu) return sums;
  LayerStatistics host = make_statistics(config, Device::cpu);
  host.attention.tokens = sums.attention.tokens, host.ffn.tokens = sums.ffn.tokens;
  const std::vector<NamedTensor> from = named(sums), to = named(host);
  for (size_t i = 0; i < from.size(); ++i) transfer(to[i].tensor, from[i].tensor, ctx);
  return host;
}

// Sums become means, and |h| becomes the contribution |h| ||w_down[:, i]||.
void finish(LayerStatistics& s, Tensor down) {
  const double scale = 1 / std::max(s.ffn.tokens, 1.0);
  for (const NamedTensor& t : named(s))
    for (int64_t i = 0; i < t.tensor.size(); ++i) t.tensor.as<float>()[i] *= static_cast<float>(scale);
  std::vector<double> squares(static_cast<size_t>(down.cols));
  dispatch(down.dtype, [&]<class T>() {
    for (int64_t o = 0; o < down.rows; ++o)
      for (int64_t i = 0; i < down.cols; ++i) squares[size_t(i)] += std::pow(double(float(down.row<T>(o)[i])), 2);
  });
  for (int64_t i = 0; i < down.cols; ++i)
    s.ffn.contribution.as<float>()[i] *= static_cast<float>(std::sqrt(squares[size_t(i)]));
}

}  // namespace

void collect_statistics(const TeacherSource& teacher, std::span<const Batch> batches,
                        const std::function<void(int64_t layer, const LayerStatistics&)>& sink, Context& ctx) {
  const ModelConfig& config = teacher.config;
  int64_t tokens = 0, largest = 0;
  for (const Batch& batch : batches) {
    tokens += static_cast<int64_t>(batch.tokens.size());
    largest = std::max(largest, static_cast<int64_t>(batch.tokens.size()));
  }
  Arena planner = Arena::planner();
  planner.tensor(tokens, config.hidden_size, teacher.dtype);
  for (const Batch& batch : batches) {
    planner.tensor(std::ssize(batch.tokens), config.head_dim, DType::f32);
    for (int i = 0; i < 2; ++i) planner.tensor(1, std::ssize(batch.tokens) + 1, DType::i32);
  }
  make_teacher_layer(config, largest, teacher.dtype, planner);
  Arena arena(planner.used_bytes(), ctx.device);
  const Tensor residual = arena.tensor(tokens, config.hidden_size, teacher.dtype);
  std::vector<SequenceBatch> sequences;
  int64_t row = 0;
  for (const Batch& batch : batches) {
    sequences.emplace_back(config, batch.lengths, std::span<const int32_t>{}, arena, ctx);
    teacher.embed(residual.row_range(row, sequences.back().tokens()), batch.tokens, ctx);
    row += sequences.back().tokens();
  }
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    const BlockWeights& block = teacher.layer(l, ctx);
    LayerStatistics sums = make_statistics(config, ctx.device);
    for (const NamedTensor& t : named(sums)) fill_zero(t.tensor, ctx);
    row = 0;
    for (const SequenceBatch& batch : sequences) {
      ArenaScope scope(arena);
      TeacherLayer layer = make_teacher_layer(config, batch.tokens(), teacher.dtype, arena);
      const Tensor boundary = residual.row_range(row, batch.tokens());
      copy(layer.input, boundary, ctx);
      teacher_layer_forward(layer, block, config, batch.view(), ctx);
      accumulate(sums, layer, ctx);
      copy(boundary, layer.output, ctx);
      row += batch.tokens();
    }
    LayerStatistics statistics = on_host(sums, config, ctx);
    finish(statistics, HostView(block.ffn.params[2].values, ctx).tensor());
    sink(l, statistics);
  }
}

int64_t statistics_bytes(const ModelConfig& config) {
  LayerStatistics statistics;
  Arena planner = Arena::planner();
  lay_out(statistics, config, planner);
  return planner.used_bytes();
}

void save_statistics(const std::filesystem::path& path, const LayerStatistics& statistics) {
  write_safetensors(path, named(statistics));
}

LayerStatistics load_statistics(const std::filesystem::path& path, const ModelConfig& config) {
  const SafeTensors file = read_safetensors(path);
  const int64_t H = config.hidden_size, I = config.intermediate_size;
  const auto read = [&](const std::string& name, int64_t rows, int64_t cols) {
    const Tensor t = file.at(name, rows, cols);
    if (t.dtype != DType::f32) throw bad_input("{}: {} is {}; must be f32", file.name, name, name_of(t.dtype));
    return t;
  };
  LayerStatistics statistics;
  for (Subblock s : {Subblock::attention, Subblock::ffn}) {
    SubblockStatistics& sub = s == Subblock::attention ? statistics.attention : statistics.ffn;
    sub.xx = read(fmt::format("{}.xx", name_of(s)), H, H);
    sub.xy = read(fmt::format("{}.xy", name_of(s)), H, H);
  }
  statistics.ffn.hh = read("ffn.hh", I, I);
  statistics.ffn.contribution = read("ffn.contribution", 1, I);
  statistics.memory = std::make_shared<std::vector<std::shared_ptr<void>>>(file.memory);
  return statistics;
}

}  // namespace tangram
