#include <cstdint>

#include "nas/architecture_file.h"
#include "nas/yaml.h"

using namespace tangram;

// Whatever the text is, it is refused with an Error of kind bad_input, or it names an architecture whose own text says
// the same, and which a teacher has or has not.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > static_cast<size_t>(kMaxYamlBytes)) return 0;
  ModelConfig teacher;
  teacher.hidden_size = 128, teacher.intermediate_size = 256, teacher.num_hidden_layers = 8;  // the quick start's
  teacher.num_attention_heads = 4, teacher.num_key_value_heads = 2, teacher.head_dim = 32, teacher.vocab_size = 64;
  ChosenArchitecture read;
  try {
    read = parse_architecture({reinterpret_cast<const char*>(data), size}, "fuzz.yaml");
    const std::string text = architecture_yaml(read);
    if (architecture_yaml(parse_architecture(text, "written.yaml")) != text) __builtin_trap();
    replacements_of(read, teacher);
  } catch (const Error& e) {
    if (e.failure != Failure::bad_input) throw;
  }
  return 0;
}
