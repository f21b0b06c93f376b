#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "blocks/generate.h"
#include "blocks/tokenizer.h"
#include "blocks/unicode.h"
#include "nas/model_options.h"
#include "nas/model_verbs.h"
#include "nas/units.h"

namespace tangram {
namespace {

struct Options {
  ModelOptions model;
  std::string prompt;
  GenerateOptions generate{.max_tokens = 256, .sampling = {.temperature = 0.8f, .top_k = 0, .top_p = 0.95}, .stop = {}};
  bool ignore_eos = false;
};

std::string per_second(int64_t count, double seconds) {
  return seconds > 0 ? format_count(double(count) / seconds) + " tokens/s" : "-";
}

void print_json(const VerbInput& in, const Options& o, const std::string& text, int64_t prompt_tokens,
                const GenerateResult& r) {
  const auto rate = [](int64_t count, double seconds) {
    return seconds > 0 ? nlohmann::ordered_json(double(count) / seconds) : nlohmann::ordered_json();
  };
  const nlohmann::ordered_json json = {{"prompt", o.prompt},
                                       {"text", text},
                                       {"prompt_tokens", prompt_tokens},
                                       {"output_tokens", r.tokens},
                                       {"stopped", r.stopped},
                                       {"prompt_tokens_per_s", rate(prompt_tokens, r.prefill_seconds)},
                                       {"decode_tokens_per_s", rate(r.decode_steps, r.decode_seconds)}};
  fmt::print(in.out, "{}\n", json.dump(2));
}

std::string tokenizer_file(const Options& o) {
  return (std::filesystem::path(o.model.folder) / "tokenizer.json").string();
}

std::vector<int32_t> encode_prompt(const Options& o, const Tokenizer& tokenizer, const ModelConfig& config) {
  std::vector<int32_t> ids;
  try {
    ids = encode(tokenizer, o.prompt);
  } catch (const Error& e) {
    throw Error(fmt::format("the prompt: {}", e.what()), e.failure);
  }
  for (const int32_t id : ids)
    if (id >= config.vocab_size)
      throw bad_input("{}: the prompt's token '{}' is {}; the vocab_size of config.json is {}", tokenizer_file(o),
                      tokenizer.tokens[size_t(id)].text, id, config.vocab_size);
  return ids;
}

void run_generate(Options& o, const VerbInput& in) {
  o.prompt = replace_invalid_utf8(o.prompt);  // a shell passes any bytes
  Context ctx(Context::Options{.device = in.device, .threads = in.threads});
  const Model model = load_model(o.model, ctx);
  const Tokenizer tokenizer = load_tokenizer(o.model.folder);
  const std::vector<int32_t> prompt = encode_prompt(o, tokenizer, model.config);
  if (!o.ignore_eos) {
    o.generate.stop = model.config.eos_token_ids;
    if (tokenizer.eos_id >= 0) o.generate.stop.push_back(tokenizer.eos_id);
  }

  // The decoder sees the prompt, too: what a token says may depend on whether it begins the text.
  StreamDecoder decoder(tokenizer);
  for (const int32_t id : prompt) decoder.next(id);
  std::string text;
  bool begun = false;
  const auto put = [&](const std::string& piece) {
    text += piece;
    if (in.json) return;
    fmt::print(in.out, "{}{}", begun ? "" : o.prompt, piece);
    std::fflush(in.out);
    begun = true;
  };
  const auto text_of = [&](int32_t id) {
    try {
      return decoder.next(id);
    } catch (const Error& e) {
      throw bad_input("{}: {}; the vocab_size of config.json is {}", tokenizer_file(o), e.what(),
                      model.config.vocab_size);
    }
  };
  const GenerateResult result = generate(
      model, prompt, o.generate, [&](int32_t id) { put(text_of(id)); }, ctx);
  put(decoder.finish());
  if (in.json)
    print_json(in, o, text, std::ssize(prompt), result);
  else
    fmt::print(in.out, "\n");
  in.console.say("prompt: {} tokens, {}; output: {} tokens, {}", prompt.size(),
                 per_second(std::ssize(prompt), result.prefill_seconds), result.tokens,
                 per_second(result.decode_steps, result.decode_seconds));
}

}  // namespace

std::function<void(const VerbInput&)> add_generate(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  add_model_options(app, o->model);
  app.add_option("PROMPT", o->prompt, "Text to continue; U+FFFD stands for bytes that are no UTF-8")->required();
  add_count(app, "--max-tokens", o->generate.max_tokens, 1, "Stop after so many tokens");
  app.add_option("--temperature", o->generate.sampling.temperature, "Flattens the distribution; 0: the likeliest token")
      ->capture_default_str();
  add_count(app, "--top-k", o->generate.sampling.top_k, 0, "Only the k likeliest tokens; 0: all");
  app.add_option("--top-p", o->generate.sampling.top_p, "Only the likeliest tokens that have this probability together")
      ->capture_default_str();
  app.add_option("--seed", o->generate.seed, "Of the random choices; the same seed gives the same text")
      ->capture_default_str();
  app.add_flag("--ignore-eos", o->ignore_eos, "Go on behind the token that ends a text");
  return [o](const VerbInput& in) { run_generate(*o, in); };
}

}  // namespace tangram
