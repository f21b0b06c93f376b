#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "distill/token_files.h"
#include "kernels/error.h"

using namespace tangram;

// Whatever the bytes are, they are refused with an Error of kind bad_input, or they are packed tokens whose segments
// and values can all be read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int file = memfd_create("tokens", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) < 0) __builtin_trap();
  try {
    int64_t sum = 0;
    for (const TokenShard& shard : load_shards(path, /*sequence_length=*/4, {"tokenizer", {}})) {
      for (const int32_t token : shard.tokens) sum += token;
      for (const int32_t next : shard.segment_next) sum += next;
      for (const float weight : shard.weights) sum += weight > 0;
      int64_t tokens = 0;
      for (const int32_t length : shard.segment_length) tokens += length;
      if (tokens != shard.sequences() * shard.sequence_length) __builtin_trap();
    }
    if (sum == 0x7461'6e67'7261'6d00) __builtin_trap();  // never; so that all is read
  } catch (const Error& e) {
    if (e.failure != Failure::bad_input) throw;
  }
  return 0;
}
