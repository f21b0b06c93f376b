// Models that transformers built, and its logits for them (tests/reference/make_fixtures.py).
#include <gmock/gmock.h>

#include "blocks/checkpoint.h"
#include "tests/blocks/folder.h"
#include "tests/own_sequences.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> reference_models() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(TANGRAM_SOURCE_DIR "/tests/data/reference"))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// Logits (S T, V) of sequences (S, T), each from its first position on.
std::vector<float> logits_of(const Model& model, Tensor ids) {
  Context ctx({.threads = 1, .scratch_bytes = 64 << 20});
  Arena arena(16 << 20);
  const OwnSequences batch(model.config, std::vector<int32_t>(static_cast<size_t>(ids.rows), int32_t(ids.cols)));
  const Tensor hidden = arena.tensor(ids.size(), model.config.hidden_size, model.dtype);
  const Tensor logits = arena.tensor(ids.size(), model.config.vocab_size, DType::f32);
  model_hidden(hidden, model, std::vector<int32_t>(ids.as<int32_t>(), ids.as<int32_t>() + ids.size()), batch.view(),
               ctx);
  model_logits(logits, model, hidden, ctx);
  return {logits.as<float>(), logits.as<float>() + logits.size()};
}

class Reference : public testing::TestWithParam<std::string> {};

TEST_P(Reference, LogitsAreThoseOfTransformers) {
  const fs::path folder = fs::path(TANGRAM_SOURCE_DIR "/tests/data/reference") / GetParam();
  const Model model = load_model(folder, DType::f32);
  const SafeTensors reference = read_safetensors(folder / "reference.safetensors");
  const Tensor ids = reference.tensors.at("input_ids"), expected = reference.tensors.at("logits");
  ASSERT_EQ(expected.rows, ids.size());
  if (const auto& scaling = model.config.rope_scaling) {
    EXPECT_GE(ids.cols, 4 * scaling->original_max_position_embeddings);
  }
  const std::vector<float> logits = logits_of(model, ids);
  ASSERT_EQ(std::ssize(logits), expected.size());
  float difference = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    difference = std::max(difference, std::abs(logits[i] - expected.as<float>()[i]));
  EXPECT_LE(difference, 1e-4);

  const TestFolder written;
  save_model(written.path / "model", model);
  EXPECT_EQ(logits_of(load_model(written.path / "model"), ids), logits);
}

INSTANTIATE_TEST_SUITE_P(Models, Reference, testing::ValuesIn(reference_models()),
                         [](const auto& model) { return model.param; });

TEST(ReferenceModels, CoverEveryForm) {
  EXPECT_THAT(reference_models(),
              testing::IsSupersetOf({"gqa_group_1", "gqa_group_2", "gqa_group_3", "gqa_group_4", "gqa_group_5",
                                     "gqa_group_6", "gqa_group_7", "gqa_group_8", "llama_2", "llama_3", "llama_3_1",
                                     "llama_3_2_tied", "nemotron", "wide_heads"}));
}

}  // namespace
}  // namespace tangram
