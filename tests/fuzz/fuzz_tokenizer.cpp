#include <cstdint>
#include <cstdlib>

#include "blocks/tokenizer.h"
#include "blocks/unicode.h"
#include "kernels/error.h"

// Input: a tokenizer.json, the byte 0xFF, a text. Whatever both are, reading ends in an Error or a tokenizer, encoding
// in an Error or in ids that decode to UTF-8, whole or in pieces.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tangram;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\xFF'), size);
  const std::string_view json = input.substr(0, end), text = input.substr(std::min(end + 1, size));
  try {
    const Tokenizer tokenizer = parse_tokenizer(json, "{}", "tokenizer.json");
    const std::vector<int32_t> ids = encode(tokenizer, text, {.parse_special = text.size() % 2 == 0});
    if (find_invalid_utf8(decode(tokenizer, ids, false)) != std::string::npos) std::abort();
    StreamDecoder decoder(tokenizer);
    for (const int32_t id : ids)
      if (find_invalid_utf8(decoder.next(id)) != std::string::npos) std::abort();
    decoder.finish();
  } catch (const Error&) {
  }
  return 0;
}
