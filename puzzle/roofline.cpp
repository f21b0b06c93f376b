#include "puzzle/roofline.h"

#include <algorithm>
#include <cmath>

namespace tangram {
namespace {

/// Tokens that go through a model together.
struct Pass {
  double tokens;     ///< in one pass
  double sequences;  ///< that they belong to
  double attended;   ///< tokens that one of them looks at, on average
  double count;      ///< passes
  bool decode;
};

// Mean over a prompt of n tokens of what each looks at, itself included, through a window of w.
double mean_attended_in_prompt(double n, double w) {
  if (n <= w) return (n + 1) / 2;
  return (w * (w + 1) / 2 + (n - w) * w) / n;
}

// Mean over the steps of a decode, whose contexts grow by one from `first` on, itself included.
double mean_attended_in_decode(double first, double steps, double w) {
  const double last = first + steps - 1;
  if (last <= w) return (first + last) / 2;
  if (first >= w) return w;
  const double growing = w - first + 1;  // steps whose context is within the window
  return (growing * (first + w) / 2 + (steps - growing) * w) / steps;
}

Pass prefill_pass(const Scenario& s, int64_t tokens_at_most, double window) {
  const double prompts = double(std::clamp<int64_t>(tokens_at_most / std::max<int64_t>(s.input_tokens, 1), 1,
                                                    std::max<int64_t>(1, s.concurrency)));
  return {.tokens = prompts * double(s.input_tokens),
          .sequences = prompts,
          .attended = mean_attended_in_prompt(double(s.input_tokens), window),
          .count = s.input_tokens > 0 ? double(s.concurrency) / prompts : 0,
          .decode = false};
}

Pass decode_pass(const Scenario& s, double window) {
  const double steps = double(std::max<int64_t>(s.output_tokens - 1, 0));  // the first token comes from the prefill
  return {.tokens = double(s.concurrency),
          .sequences = double(s.concurrency),
          .attended = steps > 0 ? mean_attended_in_decode(double(s.input_tokens + 1), steps, window) : 0,
          .count = steps,
          .decode = true};
}

/// Times operations on one machine.
class Clock {
 public:
  Clock(const Hardware& hardware, const Scenario& scenario)
      : hw_(hardware), s_(scenario), activation_(double(scenario.activation_bytes())) {}

  // y (tokens, rows) = x (tokens, cols) times a matrix, x and the matrix in `precision`
  void matmul(double tokens, double rows, double cols, Precision precision) {
    const double flops = 2 * tokens * rows * cols;
    const double bytes = (rows + tokens) * cols * double(size_of(precision)) + tokens * rows * activation_;
    const double compute = flops / (hw_.peak(precision) * hw_.of(Term::matmul_compute).value);
    const double memory = bytes / (hw_.memory_bandwidth * hw_.of(Term::matmul_memory).value);
    if (compute > memory)
      parts.of(Term::matmul_compute) += compute;
    else
      parts.of(Term::matmul_memory) += memory;
    launch();
  }

  // Queries of `width` elements a token over keys and values of `kv_elements` a token.
  void attention(const Pass& pass, double width, double kv_elements) {
    const Term term = pass.decode ? Term::attention_decode : Term::attention_prefill;
    const Precision precision = s_.precision == Precision::fp8 ? Precision::bf16 : s_.precision;
    const double flops = 4 * pass.tokens * pass.attended * width;
    const double cached = pass.decode ? pass.sequences * pass.attended : pass.tokens;
    const double bytes =
        cached * kv_elements * double(size_of(s_.kv_precision())) + 2 * pass.tokens * width * activation_;
    parts.of(term) += std::max(flops / hw_.peak(precision), bytes / hw_.memory_bandwidth) / hw_.of(term).value;
    launch();
  }

  // `elements` activations are read or written, and so many `inputs` of a product are written
  void elementwise(double elements, double inputs = 0) {
    const double bytes = elements * activation_ + inputs * double(size_of(s_.precision));
    parts.of(Term::elementwise) += bytes / (hw_.memory_bandwidth * hw_.of(Term::elementwise).value);
    launch();
  }

  void all_reduce(double elements) {
    const auto n = double(s_.tensor_parallel);
    if (n == 1) return;
    parts.of(Term::all_reduce) +=
        2 * (n - 1) / n * elements * activation_ / (hw_.link_bandwidth * hw_.of(Term::all_reduce).value);
    parts.of(Term::overhead) += hw_.link_seconds / hw_.of(Term::overhead).value;
  }

  void host_step() { parts.of(Term::overhead) += hw_.step_seconds / hw_.of(Term::overhead).value; }

  TimeParts parts;

 private:
  void launch() { parts.of(Term::overhead) += hw_.launch_seconds / hw_.of(Term::overhead).value; }

  const Hardware& hw_;
  const Scenario& s_;
  double activation_;
};

TimeParts subblock_pass(const Choice& choice, const ModelConfig& config, const Scenario& s, const Hardware& hardware,
                        const Pass& pass) {
  Clock clock(hardware, s);
  if (pass.count == 0 || pass.tokens == 0) return {};
  const auto H = double(config.hidden_size);
  clock.elementwise(pass.tokens * 3 * H, pass.tokens * H);  // the addition before it and the norm, in one
  double input_rows = 0, own_cols = 0;
  const std::vector<MatrixPart> matrices = device_matrices(choice, config, s.tensor_parallel);
  for (const MatrixPart& m : matrices) (m.input ? input_rows : own_cols) += double(m.input ? m.rows : m.cols);
  clock.matmul(pass.tokens, input_rows, H, s.precision);
  if (const auto kv = double(device_kv_elements(choice, config, s.tensor_parallel)); kv > 0) {
    clock.elementwise(pass.tokens * 2 * input_rows);  // rotation, and into the cache
    clock.attention(pass, own_cols, kv);
  } else if (own_cols > 0) {
    clock.elementwise(pass.tokens * input_rows, pass.tokens * own_cols);  // activation
  }
  for (const MatrixPart& m : matrices)
    if (!m.input) clock.matmul(pass.tokens, double(m.rows), double(m.cols), s.precision);
  clock.all_reduce(pass.tokens * H);
  return clock.parts.times(pass.count);
}

TimeParts outside_pass(const ModelConfig& config, const Scenario& s, const Hardware& hardware, const Pass& pass) {
  Clock clock(hardware, s);
  if (pass.count == 0) return {};
  const auto H = double(config.hidden_size), V = double(ceil_div(config.vocab_size, s.tensor_parallel));
  const Precision precision = s.precision == Precision::fp8 ? Precision::bf16 : s.precision;
  clock.elementwise(pass.tokens * 2 * H);     // embedding
  clock.elementwise(pass.sequences * 2 * H);  // final norm, of the last token of a prompt only
  clock.matmul(pass.sequences, V, H, precision);
  clock.elementwise(pass.sequences * V * double(size_of(DType::f32)) / double(s.activation_bytes()));  // next token
  clock.host_step();
  return clock.parts.times(pass.count);
}

}  // namespace

double TimeParts::total() const {
  double sum = 0;
  for (const double s : seconds) sum += s;
  return sum;
}

TimeParts& TimeParts::operator+=(const TimeParts& other) {
  for (size_t t = 0; t < kTermCount; ++t) seconds[t] += other.seconds[t];
  return *this;
}

TimeParts TimeParts::times(double factor) const {
  TimeParts scaled = *this;
  for (double& s : scaled.seconds) s *= factor;
  return scaled;
}

ModelledTime& ModelledTime::operator+=(const ModelledTime& other) {
  prefill += other.prefill, decode += other.decode;
  return *this;
}

ModelledTime model_subblock(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                            const Hardware& hardware) {
  if (choice.variant->no_op) return {};
  const auto window = double(choice.variant->cost({config, choice.size}).kv_tokens_at_most);
  return {.prefill = subblock_pass(choice, config, scenario, hardware,
                                   prefill_pass(scenario, hardware.prefill_tokens, window)),
          .decode = subblock_pass(choice, config, scenario, hardware, decode_pass(scenario, window))};
}

ModelledTime model_outside(const ModelConfig& config, const Scenario& scenario, const Hardware& hardware) {
  return {.prefill = outside_pass(config, scenario, hardware, prefill_pass(scenario, hardware.prefill_tokens, 1)),
          .decode = outside_pass(config, scenario, hardware, decode_pass(scenario, 1))};
}

ModelledTime model_whole(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                         const Hardware& hardware) {
  ModelledTime time = model_outside(config, scenario, hardware);
  std::vector<std::pair<Choice, ModelledTime>> known;  // few kinds of subblocks, many layers
  for (const BlockChoice& block : architecture)
    for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
      auto found = std::find_if(known.begin(), known.end(), [&](const auto& k) { return k.first == block.of(s); });
      if (found == known.end())
        found = known.insert(found, {block.of(s), model_subblock(block.of(s), config, scenario, hardware)});
      time += found->second;
    }
  return time;
}

double relative_error(const TimeParts& time, const Hardware& hardware) {
  const double total = time.total();
  double variance = hardware.residual * hardware.residual;
  for (size_t t = 0; t < kTermCount; ++t) {
    const double part = time.seconds[t] / total * hardware.efficiency[t].error;
    variance += part * part;
  }
  return std::sqrt(variance);
}

double model_memory(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                    const Hardware& hardware) {
  double bytes =
      outside_bytes(config, scenario) + workspace_bytes(architecture, config, scenario, hardware.prefill_tokens);
  for (const BlockChoice& block : architecture)
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      bytes += weight_bytes(block.of(s), config, scenario) + kv_cache_bytes(block.of(s), config, scenario);
  return bytes;
}

Serving serve(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
              const Hardware& hardware) {
  Serving serving{.scenario = scenario,
                  .memory_bytes = model_memory(architecture, config, scenario, hardware),
                  .time = model_whole(architecture, config, scenario, hardware)};
  TimeParts all = serving.time.prefill;
  all += serving.time.decode;
  serving.error = relative_error(all, hardware);
  serving.throughput =
      double(scenario.concurrency * scenario.output_tokens) / all.total() / double(scenario.tensor_parallel);
  return serving;
}

Serving best_serving(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                     const Hardware& hardware) {
  check_hardware(hardware, scenario);
  const double memory = hardware.memory_bytes - hardware.reserved_bytes;
  const auto with = [&](int64_t concurrency) {
    Scenario s = scenario;
    s.concurrency = concurrency;
    return s;
  };
  int64_t fits = 0, above = scenario.concurrency + 1;  // memory grows with the number of sequences
  while (above - fits > 1) {
    const int64_t middle = (fits + above) / 2;
    (model_memory(architecture, config, with(middle), hardware) <= memory ? fits : above) = middle;
  }
  Serving best{.scenario = with(0), .memory_bytes = model_memory(architecture, config, with(1), hardware), .time = {}};
  for (int64_t n = fits; n >= 1; n = n * 7 / 8) {
    const Serving serving = serve(architecture, config, with(n), hardware);
    if (serving.throughput > best.throughput) best = serving;
  }
  return best;
}

}  // namespace tangram
