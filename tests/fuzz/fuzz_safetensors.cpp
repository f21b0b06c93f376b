#include "blocks/safetensors.h"
#include "kernels/error.h"

using namespace tangram;

// Whatever the bytes are, they are refused with an Error, or every byte of every tensor can be read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const SafeTensors file = parse_safetensors({reinterpret_cast<const char*>(data), size}, "input");
    uint64_t sum = 0;
    for (const auto& [name, t] : file.tensors)
      for (int64_t i = 0; i < t.bytes(); ++i) sum += t.as<uint8_t>()[i];
    if (sum == 0x7461'6e67'7261'6d00) __builtin_trap();  // never; so that the bytes are read
  } catch (const Error&) {
  }
  return 0;
}
