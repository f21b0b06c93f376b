#include "blocks/tokenizer.h"

#include <algorithm>

#include "blocks/unicode.h"
#include "kernels/error.h"

namespace tangram {
namespace {

constexpr size_t kMaxText = size_t(1) << 30;  // bytes

// Removes `mark` from the start of `text` at most `count` times and lowers `count`; 0 once something else has come.
void strip_start(std::string& text, std::string_view mark, int64_t& count) {
  size_t begin = 0;
  while (count > 0 && begin < text.size()) {
    if (!std::string_view(text).substr(begin).starts_with(mark)) {
      count = 0;
    } else {
      begin += mark.size();
      --count;
    }
  }
  text.erase(0, begin);
}

const Token& token_of(const Tokenizer& tokenizer, int32_t id) {
  const int64_t size = int64_t(tokenizer.tokens.size());
  if (id < 0 || id >= size || tokenizer.tokens[id].text.empty())
    throw bad_input("no token has the id {}; the vocabulary has {} ids", id, size);
  return tokenizer.tokens[id];
}

}  // namespace

std::string rewrite(std::string_view text, std::span<const Rewrite> steps) {
  std::string out(text);
  for (const Rewrite& step : steps) {
    if (!step.from) {
      if (!out.empty()) out.insert(0, step.to);
      continue;
    }
    std::string replaced;
    size_t begin = 0;
    for (size_t at; (at = out.find(*step.from, begin)) != out.npos; begin = at + step.from->size()) {
      replaced.append(out, begin, at - begin) += step.to;
      if (replaced.size() > kMaxText) throw bad_input("replacing makes a text longer than {} bytes", kMaxText);
    }
    out = replaced.append(out, begin);
  }
  return out;
}

std::string decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special) {
  std::string text, bytes;  // bytes: of the tokens since the last whole one
  const auto end_bytes = [&] {
    if (tokenizer.byte_level || find_invalid_utf8(bytes) == bytes.npos)
      text += take_characters(bytes, true);
    else
      for (size_t i = 0; i < bytes.size(); ++i) text += kReplacementCharacter;
    bytes.clear();
  };
  for (const int32_t id : ids) {
    const Token& token = token_of(tokenizer, id);
    if (token.special && skip_special) continue;
    if (!token.partial) end_bytes();
    (token.partial ? bytes : text) += token.bytes;
  }
  end_bytes();
  int64_t count = tokenizer.strip_count;
  strip_start(text, tokenizer.strip, count);
  return text;
}

std::string StreamDecoder::next(int32_t id) {
  const Token& token = token_of(*tokenizer_, id);
  if (token.special && skip_special_) return {};
  if (token.partial) held_ += token.bytes;
  std::string text = take_characters(held_, !token.partial);
  if (!token.partial) text += token.bytes;
  strip_start(text, tokenizer_->strip, strip_left_);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = take_characters(held_, true);
  strip_start(text, tokenizer_->strip, strip_left_);
  return text;
}

}  // namespace tangram
