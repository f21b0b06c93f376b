// Logits that llama.cpp computes, for tests/reference/gguf.sh:
//
//   llama_cpp_logits MODEL.gguf OUT.f32 ID... [, ID...]...
//
// reads the sequences of token ids, separated by commas, and writes (sum of lengths, vocabulary) f32.
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  llama_log_set(
      [](ggml_log_level level, const char* text, void*) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
      },
      nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return 1;
  std::vector<std::vector<llama_token>> sequences(1);
  for (int i = 3; i < argc; ++i)
    if (std::strcmp(argv[i], ",") == 0)
      sequences.emplace_back();
    else
      sequences.back().push_back(std::atoi(argv[i]));
  std::FILE* out = std::fopen(argv[2], "wb");
  const auto vocab = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  for (std::vector<llama_token>& ids : sequences) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(ids.size());
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;  // whose products are in f16
    llama_context* context = llama_init_from_model(model, params);
    llama_batch batch = llama_batch_init(static_cast<int32_t>(ids.size()), 0, 1);
    batch.n_tokens = static_cast<int32_t>(ids.size());
    for (int32_t t = 0; t < batch.n_tokens; ++t) {
      batch.token[t] = ids[static_cast<size_t>(t)], batch.pos[t] = t, batch.n_seq_id[t] = 1;
      batch.seq_id[t][0] = 0, batch.logits[t] = 1;
    }
    if (!context || llama_decode(context, batch) != 0) return 1;
    for (int32_t t = 0; t < batch.n_tokens; ++t)
      std::fwrite(llama_get_logits_ith(context, t), sizeof(float), vocab, out);
    llama_batch_free(batch);
    llama_free(context);
  }
  return std::fclose(out);
}
