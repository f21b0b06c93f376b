#include "distill/token_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "blocks/model.h"
#include "blocks/safetensors.h"
#include "blocks/tokenizer.h"
#include "distill/corpus.h"
#include "distill/dataset.h"
#include "kernels/error.h"

namespace tangram {
namespace {

const TokenOrigin kOrigin{.tokenizer = "t1", .text = "x1"};

/// One token a byte, after a token 0.
std::vector<int32_t> encode_bytes(std::string_view text) {
  std::vector<int32_t> tokens = {0};
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

template <class F>
void expect_refused(F&& f, const std::string& part) {
  try {
    f();
    ADD_FAILURE() << "not refused: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.failure, Failure::bad_input) << e.what();
    EXPECT_THAT(e.what(), testing::HasSubstr(part));
  }
}

class TokenFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              (std::string("tangram-tokens-") + testing::UnitTest::GetInstance()->current_test_info()->name());
    remove_all(folder_);
    create_directories(folder_);
  }
  void TearDown() override { remove_all(folder_); }
  std::filesystem::path write(const std::string& name, std::string_view content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }
  std::filesystem::path folder_;
};

void expect_same(const TokenShard& a, const TokenShard& b) {
  EXPECT_EQ(a.sequence_length, b.sequence_length);
  EXPECT_THAT(a.tokens, testing::ElementsAreArray(b.tokens));
  EXPECT_THAT(a.first_segment, testing::ElementsAreArray(b.first_segment));
  EXPECT_THAT(a.segment_length, testing::ElementsAreArray(b.segment_length));
  EXPECT_THAT(a.segment_next, testing::ElementsAreArray(b.segment_next));
  EXPECT_THAT(a.weights, testing::ElementsAreArray(b.weights));
}

TEST_F(TokenFiles, WhatIsLoadedIsWhatWasSaved) {
  const TokenShard weighted = corpus_shard({}, Split::train, 0, 5, 0.15f);
  TokenPacker packer(3);
  packer.add(std::vector<int32_t>{1, 2, 3, 4, 5, 6});
  packer.add(std::vector<int32_t>{7, 8});
  const TokenShard plain = packer.take("plain");
  const std::filesystem::path file = folder_ / "a.safetensors";
  for (const TokenShard& shard : {weighted, plain}) {
    save_shard(file, shard, kOrigin);
    const auto loaded = load_shards(file, shard.sequence_length, kOrigin);
    ASSERT_EQ(loaded.size(), 1u);
    expect_same(loaded[0], shard);
    EXPECT_THAT(loaded[0].name, testing::HasSubstr("a.safetensors"));
  }
}

TEST_F(TokenFiles, StaleTokensAreRefused) {
  const std::filesystem::path file = folder_ / "a.safetensors";
  save_shard(file, corpus_shard({}, Split::train, 0, 2, 1), kOrigin);
  EXPECT_NO_THROW(load_shards(file, 128, {.tokenizer = "t1", .text = std::nullopt}));
  expect_refused([&] { load_shards(file, 128, {.tokenizer = "t2", .text = "x1"}); },
                 "of another tokenizer (t1, not t2)");
  expect_refused([&] { load_shards(file, 128, {.tokenizer = "t1", .text = "x2"}); }, "of another text (x1, not x2)");
  expect_refused([&] { load_shards(file, 64, kOrigin); }, "its sequences have 128 tokens, not 64");
  expect_refused([&] { load_shards(folder_ / "b.safetensors", 128, kOrigin); }, "b.safetensors");
  create_directories(folder_ / "empty");
  expect_refused([&] { load_shards(folder_ / "empty", 128, kOrigin); }, "without prepared tokens");
}

TEST_F(TokenFiles, DamagedShardsAreRefused) {
  const std::filesystem::path file = folder_ / "a.safetensors";
  struct Content {
    std::vector<int32_t> tokens{1, 2, 3, 4, 5, 6}, first{0, 2, 3}, length{1, 2, 3}, next{7, 8, 9};
    std::vector<float> weights{1, 1, 1, 1, 1, 1};
  };
  const auto attempt = [&](auto&& change, bool with_metadata = true) {
    Content c;
    change(c);
    const auto row = [](auto& v) { return view_of(v.data(), 1, int64_t(v.size())); };
    const std::vector<NamedTensor> tensors = {{"tokens", view_of(c.tokens.data(), 2, int64_t(c.tokens.size()) / 2)},
                                              {"first_segment", row(c.first)},
                                              {"segment_length", row(c.length)},
                                              {"segment_next", row(c.next)},
                                              {"weights", view_of(c.weights.data(), 2, int64_t(c.weights.size()) / 2)}};
    std::map<std::string, std::string> metadata;
    if (with_metadata) metadata = {{"text_digest", "x1"}, {"tokenizer_digest", "t1"}};
    write_safetensors(file, tensors, metadata);
    return load_shards(file, 3, kOrigin);
  };
  EXPECT_NO_THROW(attempt([](Content&) {}));
  expect_refused([&] { attempt([](Content&) {}, false); }, "no tokenizer_digest in its metadata");
  expect_refused([&] { attempt([](Content& c) { c.first[0] = 1; }); }, "3 segments");
  expect_refused([&] { attempt([](Content& c) { c.first[2] = 2; }); }, "3 segments");
  expect_refused([&] { attempt([](Content& c) { c.first[1] = 0; }); }, "segments of sequence 0");
  expect_refused([&] { attempt([](Content& c) { c.first[1] = 1000000; }); }, "segments of sequence 0");
  expect_refused([&] { attempt([](Content& c) { c.first[1] = -5; }); }, "segments of sequence 0");
  expect_refused([&] { attempt([](Content& c) { c.length[1] = 3; }); }, "segments of sequence 0");
  expect_refused([&] { attempt([](Content& c) { c.length = {-1, 4, 3}; }); }, "segments of sequence 0");
  expect_refused([&] { attempt([](Content& c) { c.length[2] = 2; }); }, "segments of sequence 1");
  expect_refused([&] { attempt([](Content& c) { c.first = {0, 3}; }); }, "first_segment");
  expect_refused([&] { attempt([](Content& c) { c.next = {7, 8}; }); }, "segment_next");
  expect_refused([&] { attempt([](Content& c) { c.weights = {1, 1}; }); }, "weights");

  std::vector<float> wrong(6);
  write_safetensors(file, std::vector<NamedTensor>{{"model.norm.weight", view_of(wrong.data(), 1, 6)}});
  expect_refused([&] { load_shards(file, 3, kOrigin); }, "no tensor 'tokens'");
  write("b.safetensors", "not safetensors at all");
  expect_refused([&] { load_shards(folder_ / "b.safetensors", 3, kOrigin); }, "b.safetensors");
}

// However the tokens are cut into shards, the dataset is the one that packing in memory gives.
TEST_F(TokenFiles, PreparedShardsAreTheDocumentsInOrder) {
  const auto a = write("a.jsonl", "{\"text\": \"abcdefgh\"}\n{\"text\": \"\"}\n{\"text\": \"ij\"}\n");
  const auto b = write("b.txt", "klmnopqrstuvwxyz0123456789");
  TokenPacker packer(4);
  for (const char* text : {"abcdefgh", "", "ij", "klmnopqrstuvwxyz0123456789"}) packer.add(encode_bytes(text));
  std::vector<TokenShard> in_memory = {packer.take("memory")};
  const TokenDataset expected = make_dataset(in_memory, 4, 256);
  const std::filesystem::path out = folder_ / "train";
  for (const auto& [shard_tokens, shards] : {std::pair<int64_t, size_t>{4, 2}, {1000, 1}}) {
    prepare_tokens(out, std::vector{a, b}, encode_bytes, 4, kOrigin, shard_tokens);
    const TokenDataset dataset = make_dataset(load_shards(out, 4, kOrigin), 4, 256);
    EXPECT_EQ(dataset.shards.size(), shards);
    ASSERT_EQ(dataset.sequences, expected.sequences);
    for (int64_t i = 0; i < expected.sequences; ++i) {
      const Batch x = validation_batch(dataset, 4, i), y = validation_batch(expected, 4, i);
      EXPECT_EQ(x.tokens, y.tokens);
      EXPECT_EQ(x.targets, y.targets);
      EXPECT_EQ(x.lengths, y.lengths);
    }
  }
}

TEST_F(TokenFiles, PrepareRefusesWithFileAndLineAndLeavesTheOldFolder) {
  const std::filesystem::path out = folder_ / "train";
  const auto good = write("a.jsonl", "{\"text\": \"abcdefgh\"}\n");
  prepare_tokens(out, std::vector{good}, encode_bytes, 4, kOrigin);
  const auto bad = write("b.jsonl", "{\"text\": \"abcdefgh\"}\n{\"text\": \"a?\"}\n");
  const Encode encode = [](std::string_view text) {
    if (text.find('?') != text.npos) throw bad_input("no token for '?'");
    return encode_bytes(text);
  };
  expect_refused([&] { prepare_tokens(out, std::vector{bad}, encode, 4, kOrigin, 4); }, "b.jsonl:2: no token for '?'");
  expect_refused([&] { prepare_tokens(out, std::vector{good}, encode, 9, kOrigin); }, "a.jsonl: the text is too short");
  expect_refused([&] { prepare_tokens(out, {}, encode, 9, kOrigin); }, "no data");
  EXPECT_EQ(load_shards(out, 4, kOrigin).size(), 1u);
  int64_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++files;
  EXPECT_EQ(files, 3);  // the texts and the folder: nothing half-written is left
}

// Oracle: the text itself, put together again from inputs and targets.
TEST_F(TokenFiles, RealStoriesComeBack) {
  const char* set = std::getenv("TANGRAM_TEST_DATA");
  const std::filesystem::path data =
      set ? std::filesystem::path(set) : std::filesystem::path(TANGRAM_SOURCE_DIR) / ".." / "shared" / "data";
  const std::filesystem::path stories = data / "stories260k" / "valid.jsonl";
  if (!exists(stories)) GTEST_SKIP() << "no test data at " << stories << "; set TANGRAM_TEST_DATA";
  const Tokenizer tokenizer = load_tokenizer(data / "stories260k");
  int64_t encoded = 0, documents = 0;
  std::vector<int32_t> all;
  const Encode encoder = [&](std::string_view text) {
    const std::vector<int32_t> tokens = encode(tokenizer, text);
    encoded += int64_t(tokens.size()), ++documents;
    all.insert(all.end(), tokens.begin(), tokens.end());
    return tokens;
  };
  prepare_tokens(folder_ / "valid", std::vector{stories}, encoder, 256, kOrigin);
  EXPECT_EQ(documents, 275);
  const TokenDataset dataset = make_dataset(load_shards(folder_ / "valid", 256, kOrigin), 256, 512);
  EXPECT_EQ(dataset.sequences, (encoded - documents) / 256);
  std::vector<int32_t> together;  // the document's first token, then every target
  for (int64_t b = 0; b < dataset.sequences; ++b) {
    const Batch batch = validation_batch(dataset, 256, b);
    size_t n = 0;
    for (const int32_t length : batch.lengths) {
      if (batch.tokens[n] == tokenizer.bos_id) together.push_back(batch.tokens[n]);
      together.insert(together.end(), batch.targets.begin() + ptrdiff_t(n),
                      batch.targets.begin() + ptrdiff_t(n) + length);
      n += size_t(length);
    }
  }
  ASSERT_LE(together.size(), all.size());
  EXPECT_TRUE(std::equal(together.begin(), together.end(), all.begin()));
}

}  // namespace
}  // namespace tangram
