#include "blocks/gguf.h"

#include <gmock/gmock.h>

#include <cmath>

#include "blocks/file.h"
#include "kernels/random.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;

const GgufMetadata kMetadata{{"general.architecture", "deci"},
                             {"deci.block_count", int64_t{2}},
                             {"deci.rope.freq_base", 5e5},
                             {"flag", true},
                             {"numbers", std::vector<int64_t>{1, -2, 3}},
                             {"scores", std::vector<double>{0.5, -1}},
                             {"texts", std::vector<std::string>{"", "ab", "Ġ"}}};

std::vector<GgufTensor> tensors() {
  const auto row = [](std::span<float> out, int64_t r) {
    for (size_t c = 0; c < out.size(); ++c) out[c] = float(random_normal(1, uint64_t(r), c));
  };
  return {{.name = "a.weight", .type = GgufType::q8_0, .rows = 3, .cols = 64, .row = row},
          {.name = "b.weight", .type = GgufType::f32, .rows = 1, .cols = 5, .row = row},
          {.name = "c.weight", .type = GgufType::bf16, .rows = 4, .cols = 7, .row = row},
          {.name = "d.weight", .type = GgufType::f16, .rows = 2, .cols = 3, .row = row}};
}

std::string file_bytes() {
  const TestFolder folder;
  write_gguf(folder.path / "f.gguf", kMetadata, tensors(), 2);
  return read_text_file(folder.path / "f.gguf", 1 << 20);
}

TEST(Gguf, ComesBack) {
  const std::string bytes = file_bytes();
  const GgufFile file = parse_gguf(bytes, "f");
  for (const auto& [key, value] : kMetadata) EXPECT_EQ(file.metadata.at(key), value) << key;
  for (const GgufTensor& t : tensors()) {
    const StoredTensor& stored = file.tensor(t.name, t.rows, t.cols);
    EXPECT_EQ(stored.type, t.type);
    std::vector<float> row(size_t(t.cols)), read = row;
    const double allowed = t.type == GgufType::q8_0  ? 1 / 225.0
                           : t.type == GgufType::f32 ? 0
                           : t.type == GgufType::f16 ? 0x1p-11
                                                     : 0x1p-8;
    for (int64_t r = 0; r < t.rows; ++r) {
      t.row(row, r);
      decode_row(read, t.type, stored.data + r * row_bytes(t.type, t.cols));
      const float largest = std::abs(*std::ranges::max_element(row, {}, [](float x) { return std::abs(x); }));
      for (size_t c = 0; c < row.size(); ++c)
        EXPECT_LE(std::abs(row[c] - read[c]), allowed * double(largest)) << t.name;
    }
  }
}

// Two blocks by hand: 127 d = 254, so d = 2; and all zeros.
TEST(Gguf, EightBitsAreWhatTheFormatSays) {
  std::vector<float> row(64, 0);
  row[0] = 254, row[1] = -3.2f, row[2] = 1.1f;
  std::string out(size_t(row_bytes(GgufType::q8_0, 64)), 'x');
  ASSERT_EQ(out.size(), 68u);
  encode_row(out.data(), GgufType::q8_0, row);
  EXPECT_EQ(out.substr(0, 6), std::string("\x00\x40\x7f\xfe\x01\x00", 6));  // 2 in f16; 127, -2, 1, 0
  EXPECT_EQ(out.substr(34), std::string(34, '\0'));
}

TEST(Gguf, StartsAsThePublishedLayoutSays) {
  const std::string bytes = file_bytes();
  EXPECT_EQ(bytes.substr(0, 8), std::string("GGUF\x03\x00\x00\x00", 8));
  EXPECT_EQ(bytes.substr(8, 16), std::string("\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0", 16));
  EXPECT_EQ(bytes.size() % 32, 0u);
  EXPECT_EQ(file_bytes(), bytes);
}

TEST(Gguf, DamageIsRefused) {
  const std::string bytes = file_bytes();
  const auto refused = [&](const std::string& text) { return message_of([&] { parse_gguf(text, "f"); }); };
  for (size_t size = 0; size < bytes.size() - 32; size += 3) EXPECT_NE(refused(bytes.substr(0, size)), "") << size;
  const auto changed = [&](size_t at, char value) {
    std::string text = bytes;
    text[at] = value;
    return refused(text);
  };
  EXPECT_THAT(changed(0, 'g'), HasSubstr("is no GGUF file"));
  EXPECT_THAT(changed(4, 9), HasSubstr("version 9"));
  EXPECT_THAT(changed(15, 1), HasSubstr("tensors and"));
  EXPECT_THAT(changed(24 + 6, 1), HasSubstr("a text of"));  // the first key's length
  std::string twice = bytes;
  twice[twice.find("c.weight")] = 'd';
  EXPECT_THAT(refused(twice), HasSubstr("tensor 'd.weight' is there twice"));
}

TEST(Gguf, WhatIsAskedForInVainIsNamed) {
  const std::string bytes = file_bytes();
  const GgufFile file = parse_gguf(bytes, "f");
  EXPECT_THAT(message_of([&] { file.at<int64_t>("deci.block_cuont"); }),
              HasSubstr("the nearest is 'deci.block_count'"));
  EXPECT_THAT(message_of([&] { file.at<std::string>("deci.block_count"); }), HasSubstr("of another kind"));
  EXPECT_THAT(message_of([&] { file.tensor("c.weight", 7, 4); }), HasSubstr("is (4, 7) where (7, 4) is expected"));
}

}  // namespace
}  // namespace tangram
