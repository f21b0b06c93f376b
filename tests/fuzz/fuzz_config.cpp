#include <cstddef>
#include <cstdint>

#include "nas/config.h"

// A config is any text: it is read, or refused with an Error of kind bad_input.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > static_cast<size_t>(tangram::kMaxYamlBytes)) return 0;
  try {
    tangram::parse_config({reinterpret_cast<const char*>(data), size}, "fuzz.yaml", "/");
  } catch (const tangram::Error& e) {
    if (e.failure != tangram::Failure::bad_input) throw;
  }
  return 0;
}
