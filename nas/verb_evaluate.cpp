#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "blocks/tokenizer.h"
#include "distill/dataset.h"
#include "distill/documents.h"
#include "kernels/head_loss.h"
#include "kernels/transfer.h"
#include "nas/model_options.h"
#include "nas/model_verbs.h"
#include "nas/table.h"
#include "puzzle/replace_one.h"

namespace tangram {
namespace {

constexpr int64_t kBatchTokens = 4096, kSequenceLength = 2048;

struct Options {
  ModelOptions model;
  std::string data, teacher;
  int64_t tokens = 1'000'000, sequence_length = 0;
};

/// A result with its standard error over sequences.
struct Figure {
  std::string name, units;
  MeanAndError value;
};

// Also if it is one that cannot be read: that is for load_tokenizer to say.
bool has_tokenizer(const std::string& folder) {
  std::error_code unreadable;
  return exists(symlink_status(std::filesystem::path(folder) / "tokenizer.json", unreadable));
}

// Losses of models on different tokens cannot be compared.
void check_teacher(const Model& teacher, const Model& model, const Options& o) {
  const ModelConfig &t = teacher.config, &m = model.config;
  if (t.vocab_size != m.vocab_size || t.hidden_size != m.hidden_size)
    throw bad_input("{} has a vocabulary of {} and hidden size {}, the teacher {} {} and {}; they must agree",
                    o.model.folder, m.vocab_size, m.hidden_size, o.teacher, t.vocab_size, t.hidden_size);
  if (!has_tokenizer(o.teacher) || !has_tokenizer(o.model.folder)) return;
  const std::vector<Token> a = load_tokenizer(o.teacher).tokens, b = load_tokenizer(o.model.folder).tokens;
  const auto same = [](const Token& x, const Token& y) { return x.text == y.text; };
  const auto [at, ignored] = std::mismatch(a.begin(), a.end(), b.begin(), b.end(), same);
  if (at != a.end() || a.size() != b.size())
    throw bad_input("the vocabularies of {} and of the teacher {} differ from token {} on", o.model.folder, o.teacher,
                    at - a.begin());
}

// Whole sequences of the text, at most `tokens` of them together.
TokenDataset read_data(const Options& o, const Tokenizer& tokenizer, const ModelConfig& config) {
  const int64_t T =
      o.sequence_length > 0 ? o.sequence_length : std::min(kSequenceLength, config.max_position_embeddings);
  const int64_t sequences = std::max<int64_t>(1, o.tokens / T);
  TokenPacker packer(T);
  Encoder encoder(tokenizer);
  read_documents(o.data, [&](std::string_view text, const std::string& where) {
    if (packer.sequences() >= sequences) return;
    try {
      std::vector<int32_t> ids = encoder.encode(text);
      if (tokenizer.eos_id >= 0) ids.push_back(tokenizer.eos_id);
      packer.add(ids);
    } catch (const Error& e) {
      throw Error(fmt::format("{}: {}", where, e.what()), e.failure);
    }
  });
  std::vector<TokenShard> shards;
  shards.push_back(packer.take(o.data));
  TokenDataset dataset = make_dataset(std::move(shards), T, config.vocab_size);
  dataset.sequences = std::min(dataset.sequences, sequences);
  return dataset;
}

Tensor hidden_states(const Model& model, const Batch& batch, Context& ctx) {
  const SequenceBatch sequences(model.config, batch.lengths, {}, ctx.scratch, ctx);
  const Tensor hidden = ctx.scratch.tensor(sequences.tokens(), model.config.hidden_size, model.dtype);
  model_hidden(hidden, model, batch.tokens, sequences.view(), ctx);
  return hidden;
}

// Mean loss of each sequence; every token of packed text has a target.
std::vector<double> sequence_losses(const Model& model, const Batch& batch, int64_t T, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const Tensor hidden = hidden_states(model, batch, ctx);
  const Tensor loss = ctx.scratch.tensor(1, hidden.rows, DType::f32);
  head_loss_forward({.cross_entropy = loss}, {.student = {hidden, model.head}, .teacher = {}, .targets = batch.targets},
                    ctx);
  const HostView host(loss, ctx);
  std::vector<double> means;
  for (int64_t first = 0; first < hidden.rows; first += T) {
    const float* l = host.as<float>() + first;
    means.push_back(std::accumulate(l, l + T, 0.0) / double(T));
  }
  return means;
}

std::vector<Figure> loss_figures(const MeanAndError& loss) {
  const double perplexity = std::exp(loss.mean);
  return {{"loss", "nats", loss}, {"perplexity", "", {perplexity, perplexity * loss.standard_error}}};
}

std::vector<Figure> measure(const Model& model, const Model* teacher, const TokenDataset& data, Context& ctx,
                            Console& console) {
  const int64_t T = data.sequence_length;
  const int64_t batch_tokens = std::clamp<int64_t>(kBatchTokens / T, 1, data.sequences) * T;
  std::array<std::vector<double>, kMetricCount> samples;
  Progress progress(console, "evaluate", "tokens", double(data.tokens()));
  for (int64_t i = 0; i < validation_batches(data, batch_tokens); ++i) {
    const Batch batch = validation_batch(data, batch_tokens, i);
    if (teacher) {
      ArenaScope scope(ctx.scratch);
      const Tensor student_hidden = hidden_states(model, batch, ctx),
                   teacher_hidden = hidden_states(*teacher, batch, ctx);
      for (const MetricValues& values : sequence_metrics(student_hidden, model, teacher_hidden, *teacher,
                                                         {batch.tokens, batch.targets, batch.lengths, T}, ctx))
        for (size_t m = 0; m < kMetricCount; ++m) samples[m].push_back(values[m]);
    } else {
      for (double loss : sequence_losses(model, batch, T, ctx)) samples[size_t(Metric::lm_loss)].push_back(loss);
    }
    progress.update(double(i * batch_tokens) + double(batch.tokens.size()));
  }
  std::vector<Figure> figures = loss_figures(mean_and_error(samples[size_t(Metric::lm_loss)]));
  if (!teacher) return figures;
  for (size_t m = 0; m < kMetricCount; ++m)
    if (m != size_t(Metric::lm_loss))
      figures.push_back(
          {std::string(kMetricNames[m]), m == size_t(Metric::kl_divergence) ? "nats" : "", mean_and_error(samples[m])});
  return figures;
}

void print(const VerbInput& in, const std::vector<Figure>& figures, const TokenDataset& data) {
  if (in.json) {
    nlohmann::ordered_json json = {{"sequences", data.sequences}, {"tokens", data.tokens()}};
    for (const Figure& f : figures) json[f.name] = {{"mean", f.value.mean}, {"standard_error", f.value.standard_error}};
    fmt::print(in.out, "{}\n", json.dump(2));
    return;
  }
  Table table{.header = {"metric", "mean", "standard error", "units"}, .rows = {}};
  for (const Figure& f : figures)
    table.rows.push_back(
        {f.name, fmt::format("{:.5f}", f.value.mean), fmt::format("{:.5f}", f.value.standard_error), f.units});
  fmt::print(in.out, "{}over {} tokens in {} sequences\n", format_table(table), data.tokens(), data.sequences);
}

void run_evaluate(const Options& o, const VerbInput& in) {
  Context ctx(Context::Options{.device = in.device, .threads = in.threads});
  const Model model = load_model(o.model, ctx);
  std::optional<Model> teacher;
  if (!o.teacher.empty()) {
    teacher = load_model(ModelOptions{o.teacher, o.model.dtype}, ctx);
    check_teacher(*teacher, model, o);
  }
  const bool own = o.teacher.empty() || has_tokenizer(o.model.folder);
  const Tokenizer tokenizer = load_tokenizer(own ? o.model.folder : o.teacher);
  const TokenDataset data = read_data(o, tokenizer, model.config);
  print(in, measure(model, teacher ? &*teacher : nullptr, data, ctx, in.console), data);
}

}  // namespace

std::function<void(const VerbInput&)> add_evaluate(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  add_model_options(app, o->model);
  app.add_option("--data", o->data, "Text that the model was not trained on: .jsonl (\"text\") or .txt")->required();
  app.add_option("--teacher", o->teacher, "Model to compare with: a Hugging Face folder of the same vocabulary");
  add_count(app, "--tokens", o->tokens, 1, "Measure at most so many");
  add_count(app, "--sequence-length", o->sequence_length, 0,
            "Tokens of a sequence; 0: 2048, or the model's positions if they are fewer");
  return [o](const VerbInput& in) { run_evaluate(*o, in); };
}

}  // namespace tangram
