// Encoding speed on one thread: TANGRAM_TOKENIZER names a folder with a tokenizer.json of real size, TANGRAM_TEXTS the
// texts (separated by ':'); without them a small tokenizer and a text are made up, which says only that it works. Where
// TANGRAM_PEERS names a Python with `tokenizers`, beside that on the same texts.

#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "blocks/file.h"
#include "blocks/tokenizer.h"
#include "blocks/unicode.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMostText = int64_t(1) << 30;
constexpr size_t kDocument = 4096;  // bytes, about: a text of a corpus

void write_text(const fs::path& file, const std::string& text) {
  std::ofstream out(file);
  out << text;
  CHECK(out.good(), "{} cannot be written", file.string());
}

// Bytes as tokens, cut by Llama 3's expression, and a text of words.
void make_up(const fs::path& folder) {
  nlohmann::json vocab;
  for (int c = 0x21; c < 0x7F; ++c) vocab[std::string(1, char(c))] = c;
  vocab["Ġ"] = ' ', vocab["Ċ"] = '\n', vocab["he"] = 300;
  const nlohmann::json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kLlama3Pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const nlohmann::json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const nlohmann::json tokenizer = {
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"h e"}}}},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
      {"decoder", {{"type", "ByteLevel"}}},
  };
  write_text(folder / "tokenizer.json", tokenizer.dump());
  std::string text;
  for (int i = 0; i < 20000; ++i) text += i % 13 == 0 ? "here\n" : "the others ";
  write_text(folder / "text", text);
}

// Cut at line ends.
std::vector<std::string_view> documents_of(std::string_view text) {
  std::vector<std::string_view> documents;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n', std::min(kDocument, text.size() - 1)), text.size() - 1) + 1;
    documents.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return documents;
}

void encode_file(Bench& bench, const fs::path& folder, const Tokenizer& tokenizer, const std::string& file) {
  const std::string text = replace_invalid_utf8(read_text_file(file, kMostText));
  const std::vector<std::string_view> documents = documents_of(text);
  size_t ids = 0;
  const double seconds = bench.seconds(
      [&] {
        Encoder encoder(tokenizer);
        ids = 0;
        for (const std::string_view document : documents) ids += encoder.encode(document, {.add_bos = false}).size();
      },
      0.1, 5);
  fmt::print("| {:<28} | {:>6.1f} | {:>8} | {:>10} | {:>6.1f} |", fs::path(file).filename().string(),
             double(text.size()) * 1e-6, documents.size(), ids, double(text.size()) * 1e-6 / seconds);
  const std::string work = fmt::format("{}:{}:{}", (folder / "tokenizer.json").string(), file, kDocument);
  const auto times = time_peers({work}, {Device::cpu, DType::f32, 1, bench.options.peer_seconds, "peer_tokenizers.py"});
  if (const auto found = times.find(work); found != times.end())
    for (const PeerTime& peer : found->second)
      fmt::print(" {:.1f} x {}, {:.1f} MB/s;", peer.seconds / seconds, peer.name,
                 double(text.size()) * 1e-6 / peer.seconds);
  fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace

void bench_tokenizer(Bench& bench) {
  const char *folder_name = std::getenv("TANGRAM_TOKENIZER"), *texts = std::getenv("TANGRAM_TEXTS");
  const fs::path own = fs::temp_directory_path() / fmt::format("tokenizer-{}", getpid());
  fs::create_directories(own);
  const bool made_up = !folder_name || !texts;
  if (made_up) make_up(own);
  const fs::path folder = made_up ? own : fs::path(folder_name);
  const Tokenizer tokenizer = load_tokenizer(folder);
  fmt::print("| {:<28} | {:>6} | {:>8} | {:>10} | {:>6} | {} |\n",
             fmt::format("encode, {} tokens", tokenizer.tokens.size()), "MB", "texts", "ids", "MB/s", "times the peer");
  fmt::print("| --- | --- | --- | --- | --- | --- |\n");
  std::istringstream files(made_up ? (own / "text").string() : texts);
  for (std::string file; std::getline(files, file, ':');) encode_file(bench, folder, tokenizer, file);
  fmt::print("\n");
  fs::remove_all(own);
}

}  // namespace tangram
