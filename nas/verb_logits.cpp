#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "blocks/generate.h"
#include "blocks/safetensors.h"
#include "kernels/transfer.h"
#include "nas/model_options.h"
#include "nas/model_verbs.h"

namespace tangram {
namespace {

constexpr int64_t kTokensAtOnce = 256;  // their logits over a vocabulary of 128k are 128 MiB

struct Options {
  ModelOptions model;
  std::string tokens, output;
};

/// The file of --tokens: what goes in, and what may be known to come out.
struct Reference {
  SafeTensors file;
  Tensor ids;     // (S, T)  i32
  Tensor logits;  // (S T, V)  f32, or empty
};

Reference read_reference(const std::string& path, int64_t vocab_size) {
  Reference r{.file = read_safetensors(path), .ids = {}, .logits = {}};
  const auto found = r.file.tensors.find("input_ids");
  if (found == r.file.tensors.end()) throw bad_input("{}: no tensor 'input_ids'", path);
  r.ids = found->second;
  if (r.ids.dtype != DType::i32) throw bad_input("{}: 'input_ids' is {}; allowed: i32", path, name_of(r.ids.dtype));
  if (r.ids.size() == 0 || r.ids.size() > INT32_MAX)
    throw bad_input("{}: 'input_ids' has {} ids; allowed: 1 to {}", path, r.ids.size(), INT32_MAX);
  for (int64_t i = 0; i < r.ids.size(); ++i)
    if (const int32_t id = r.ids.as<int32_t>()[i]; id < 0 || id >= vocab_size)
      throw bad_input("{}: 'input_ids' has {} at place {}; the model's vocabulary has {}", path, id, i, vocab_size);
  if (const auto logits = r.file.tensors.find("logits"); logits != r.file.tensors.end()) {
    const Tensor& l = logits->second;
    if (l.dtype == DType::f32 && l.rows == r.ids.size() && l.cols == vocab_size) r.logits = l;
  }
  return r;
}

/// What is added up over tokens.
struct Totals {
  double loss = 0;
  int64_t targets = 0;
  double max_difference = 0;

  void add(Tensor logits, const int32_t* next_ids, int64_t next_count, Tensor expected, Context& ctx);
};

// Cross-entropy of the true next token, lse - l[target].
double cross_entropy(const float* l, int64_t V, int32_t target) {
  const double largest = double(*std::max_element(l, l + V));
  double sum = 0;
  for (int64_t v = 0; v < V; ++v) sum += std::exp(double(l[v]) - largest);
  return largest + std::log(sum) - double(l[target]);
}

// The largest absolute difference; NaN if there is one.
double difference(const float* a, const float* b, int64_t V) {
  double largest = 0;
  for (int64_t v = 0; v < V; ++v) {
    const double d = std::abs(double(a[v]) - double(b[v]));
    if (!(d <= largest)) largest = d;
  }
  return largest;
}

// `logits` (N, V) of N tokens beside each other; the first `next_count` of them have a next one in the sequence.
void Totals::add(Tensor logits, const int32_t* next_ids, int64_t next_count, Tensor expected, Context& ctx) {
  std::vector<double> losses(static_cast<size_t>(logits.rows), 0), differences = losses;
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
  for (int64_t n = 0; n < logits.rows; ++n) {
    const float* l = logits.row<float>(n);
    const auto i = static_cast<size_t>(n);
    if (n < next_count) losses[i] = cross_entropy(l, logits.cols, next_ids[n]);
    if (expected.data) differences[i] = difference(l, expected.row<float>(n), logits.cols);
  }
  for (size_t n = 0; n < losses.size(); ++n) {
    loss += losses[n];
    if (!(differences[n] <= max_difference)) max_difference = differences[n];
  }
  targets += next_count;
}

// Runs sequence after sequence, or several short ones at once, and appends their logits to the file in the order of
// ids.
Totals write_logits(AtomicFile& file, const Model& model, const Reference& reference, Context& ctx, Console& console) {
  const Tensor ids = reference.ids;
  const int64_t S = ids.rows, T = ids.cols, V = model.config.vocab_size;
  const int64_t group = std::clamp<int64_t>(kTokensAtOnce / T, 1, S);
  Totals totals;
  Progress progress(console, "logits", "tokens", double(ids.size()));
  for (int64_t s = 0; s < S; s += group) {
    const Tensor sequences = ids.row_range(s, std::min(group, S - s));
    ContiguousCache memory = make_cache(model, sequences.rows, T);
    prefill(
        model, sequences, memory.cache, std::max(kTokensAtOnce, group * T),
        [&](int64_t first, int64_t count, Tensor hidden) {
          ArenaScope scope(ctx.scratch);
          const Tensor logits = ctx.scratch.tensor(hidden.rows, V, DType::f32);
          model_logits(logits, model, hidden, ctx);
          const HostView host(logits, ctx);
          file.write({host.as<char>(), static_cast<size_t>(logits.bytes())});
          for (int64_t i = 0; i < sequences.rows; ++i) {
            const Tensor expected =
                reference.logits.data ? reference.logits.row_range((s + i) * T + first, count) : Tensor{};
            totals.add(host.tensor().row_range(i * count, count), sequences.row<int32_t>(i) + first + 1,
                       std::min(count, T - 1 - first), expected, ctx);
          }
          progress.update(double(s * T + first + hidden.rows));
        },
        ctx);
  }
  return totals;
}

void print(const VerbInput& in, const Options& o, const Totals& totals, const Reference& reference) {
  const bool has_loss = totals.targets > 0, compared = reference.logits.data != nullptr;
  const double loss = totals.loss / double(totals.targets);
  if (in.json) {
    nlohmann::ordered_json json = {{"output", o.output}, {"tokens", reference.ids.size()}};
    json["loss"] = has_loss ? nlohmann::ordered_json(loss) : nlohmann::ordered_json();
    if (compared) json["max_difference"] = totals.max_difference;
    fmt::print(in.out, "{}\n", json.dump(2));
    return;
  }
  if (has_loss) fmt::print(in.out, "next-token loss: {:.6f} nats, mean of {} tokens\n", loss, totals.targets);
  if (compared) fmt::print(in.out, "largest difference to the logits of {}: {:.2e}\n", o.tokens, totals.max_difference);
}

// Before the work: a slip in a name would otherwise show behind it, as a failure of the system.
void check_output(const std::filesystem::path& output) {
  std::error_code unreadable;
  if (is_directory(output, unreadable)) throw bad_input("--output {}: is a folder; give a file in it", output.string());
  if (output.has_parent_path() && !is_directory(output.parent_path(), unreadable))
    throw bad_input("--output {}: there is no folder {}", output.string(), output.parent_path().string());
}

void run_logits(const Options& o, const VerbInput& in) {
  check_output(o.output);
  Context ctx(Context::Options{.device = in.device, .threads = in.threads});
  const Model model = load_model(o.model, ctx);
  const Reference reference = read_reference(o.tokens, model.config.vocab_size);
  AtomicFile file(o.output);
  const Tensor shape{.data = nullptr, .rows = reference.ids.size(), .cols = model.config.vocab_size};
  file.write(safetensors_header(std::vector<NamedTensor>{{"logits", shape}}));
  const Totals totals = write_logits(file, model, reference, ctx, in.console);
  file.commit();
  print(in, o, totals, reference);
}

}  // namespace

std::function<void(const VerbInput&)> add_logits(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  add_model_options(app, options->model);
  app.add_option("--tokens", options->tokens,
                 "Safetensors file with 'input_ids', I32 [N] or [sequences, N]; 'logits' in it are compared with")
      ->required();
  app.add_option("--output", options->output, "Safetensors file to write: 'logits' F32 [all tokens, vocabulary]")
      ->required();
  return [options](const VerbInput& in) { run_logits(*options, in); };
}

}  // namespace tangram
