#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/random.h"

namespace tangram {

/// A tokenizer.json for the vocabulary of small_teacher(), a symbol a character: `a` is 0 … `w` is 22.
inline std::string letters_tokenizer() {
  nlohmann::json vocab;
  for (int i = 0; i < 23; ++i) vocab[std::string(1, char('a' + i))] = i;
  return nlohmann::json{{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}},
                        {"decoder", {{"type", "Fuse"}}}}
      .dump();
}

/// Random text of its symbols.
inline std::string letters(int64_t count, uint64_t stream) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) text += char('a' + int(random_below(23, 9, stream, uint64_t(i))));
  return text;
}

/// A .jsonl file of `documents` such texts of T + 1 tokens: each is one sequence of T.
inline std::string letters_jsonl(int64_t documents, int64_t T) {
  std::string lines;
  for (int64_t d = 0; d < documents; ++d) lines += nlohmann::json{{"text", letters(T + 1, uint64_t(d))}}.dump() + "\n";
  return lines;
}

}  // namespace tangram
