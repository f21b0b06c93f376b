#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "blocks/tokenizer.h"
#include "blocks/unicode.h"
#include "kernels/error.h"

namespace {

using namespace tangram;

// What is matched by hand is what PCRE2 matches.
void cut_as_pcre2_does(std::string_view text) {
  static const std::string_view kPatterns[] = {kLlama3Pattern, kQwen2Pattern, kGpt2Pattern};
  for (const std::string_view pattern : kPatterns) {
    const SplitPattern by_hand(pattern), by_pcre2(pattern, SplitBy::pcre2);
    std::vector<std::string_view> a, b;
    Splitter(by_hand, text.size()).split(a, text);
    Splitter(by_pcre2, text.size()).split(b, text);
    if (a != b) std::abort();
  }
}

}  // namespace

// Input: a tokenizer.json, the byte 0xFF, a text. Whatever both are, reading ends in an Error or a tokenizer, encoding
// in an Error or in ids that decode to UTF-8, whole or in pieces.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\xFF'), size);
  const std::string_view json = input.substr(0, end), text = input.substr(std::min(end + 1, size));
  try {
    const Tokenizer tokenizer = parse_tokenizer(json, "{}", "tokenizer.json");
    const std::string valid = replace_invalid_utf8(text);
    const EncodeOptions options{.parse_special = text.size() % 2 == 0};
    const std::vector<int32_t> ids = encode(tokenizer, valid, options);
    Encoder encoder(tokenizer, 2);  // words take each other's place
    if (encoder.encode(valid, options) != ids || encoder.encode(valid, options) != ids) std::abort();
    cut_as_pcre2_does(valid);
    if (find_invalid_utf8(decode(tokenizer, ids, false)) != std::string::npos) std::abort();
    StreamDecoder decoder(tokenizer);
    for (const int32_t id : ids)
      if (find_invalid_utf8(decoder.next(id)) != std::string::npos) std::abort();
    decoder.finish();
  } catch (const Error&) {
  }
  return 0;
}
