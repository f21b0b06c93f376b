#include "blocks/config_json.h"
#include "kernels/error.h"

using namespace tangram;

// Whatever the text is, it is refused with an Error, or it describes a model whose own config.json says the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ModelDescription read;
  try {
    read = parse_config_json({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const Error&) {
    return 0;
  }
  const std::string text = config_json(read.config, read.architecture, DType::bf16);
  if (parse_config_json(text, "written") != read) __builtin_trap();
  return 0;
}
