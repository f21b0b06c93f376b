#include "blocks/safetensors.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "blocks/model.h"
#include "tests/blocks/damage.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

std::string refusal_of(std::string_view file) {
  return message_of([&] { parse_safetensors(file, "x"); });
}

bool begins_with(const std::string& text, std::string_view start) { return text.starts_with(start); }

std::string entry(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
}

std::string bytes_of(Tensor t) {
  std::string bytes;
  for (int64_t r = 0; r < t.rows; ++r)
    bytes.append(static_cast<const char*>(t.row_range(r, 1).data), size_t(t.cols * size_of(t.dtype)));
  return bytes;
}

TEST(Safetensors, ReadsAFileByHand) {
  const std::string header = R"({"__metadata__":{"format":"pt","by":"hand"},)"
                             R"("m":{"dtype":"I32","shape":[2,3],"data_offsets":[4,28]},)"
                             R"("v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                             R"("none":{"dtype":"U8","shape":[0,7],"data_offsets":[28,28]},)"
                             R"("s":{"dtype":"I64","shape":[],"data_offsets":[28,36]}} )";
  const int32_t m[] = {1, 2, 3, 4, 5, 6};
  const float v = 2.5;
  const int64_t s = -7;
  std::string data(reinterpret_cast<const char*>(&v), 4);
  data.append(reinterpret_cast<const char*>(m), 24).append(reinterpret_cast<const char*>(&s), 8);
  const std::string file = file_of(header, data);
  const SafeTensors read = parse_safetensors(file, "x");
  EXPECT_EQ(read.metadata.at("by"), "hand");
  ASSERT_EQ(read.tensors.size(), 4u);
  EXPECT_EQ(read.at("m", 2, 3).row<int32_t>(1)[2], 6);
  EXPECT_EQ(read.at("v", 1, 1).as<float>()[0], 2.5f);
  EXPECT_EQ(read.at("s", 1, 1).as<int64_t>()[0], -7);
  EXPECT_EQ(read.at("none", 0, 7).dtype, DType::u8);
}

TEST(Safetensors, CopiesWhatIsNotAligned) {
  const std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  const float f[] = {1.5, -3};
  alignas(8) char file[256];
  const std::string content = file_of(header, std::string("\x07").append(reinterpret_cast<const char*>(f), 8));
  std::memcpy(file, content.data(), content.size());
  const SafeTensors read = parse_safetensors({file, content.size()}, "x");
  const Tensor t = read.at("f", 1, 2);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data) % 4, 0u);
  EXPECT_EQ(t.as<float>()[1], -3);
  EXPECT_EQ(read.memory.size(), 1u);
  EXPECT_EQ(read.at("b", 1, 1).as<uint8_t>()[0], 7);
}

TEST(Safetensors, ReadsAnEmptyTensorWhereverItLies) {
  for (const char* padding : {"", " ", "  ", "   "}) {
    const std::string file =
        file_of(R"({"e":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})" + std::string(padding), "");
    EXPECT_EQ(parse_safetensors(file, "x").at("e", 1, 0).size(), 0);
  }
}

TEST(Safetensors, RefusesADamagedFrame) {
  EXPECT_EQ(refusal_of("1234567"), "x: 7 bytes are no safetensors file");
  EXPECT_EQ(refusal_of(file_of("{}", "", 3)), "x: a header of 3 bytes in a file of 10: it is cut short or damaged");
  EXPECT_EQ(refusal_of(file_of("{}", "", 100'000'001)),
            "x: a header of 100000001 bytes; allowed: at most 100000000. Is it a safetensors file?");
  EXPECT_EQ(refusal_of(std::string(64, '\xff')),
            "x: a header of 18446744073709551615 bytes; allowed: at most 100000000. Is it a safetensors file?");
  EXPECT_EQ(refusal_of(file_of(" {}", "")), "x: the header does not start with '{'");
  EXPECT_EQ(refusal_of(file_of("", "")), "x: the header does not start with '{'");
  EXPECT_EQ(refusal_of(file_of("{}", "abc")), "x: the last 3 bytes belong to no tensor");
  EXPECT_EQ(refusal_of(file_of("{}   ", "")), "");
}

TEST(Safetensors, RefusesADamagedHeader) {
  EXPECT_TRUE(begins_with(refusal_of(file_of("{\"a\":", "")), "x: header: parse error"));
  EXPECT_TRUE(begins_with(refusal_of(file_of("{\"a\xff\":1}", "")), "x: header: parse error"));
  EXPECT_TRUE(begins_with(refusal_of(file_of("{} {}", "")), "x: header: parse error"));
  const std::string f = entry("F32", "[1]", "[0,4]");
  EXPECT_EQ(refusal_of(file_of(fmt::format(R"({{"a":{},"a":{}}})", f, f), "1234")),
            "x: header: the key 'a' stands there twice");
  EXPECT_EQ(refusal_of(file_of(R"({"a":{"dtype":"F32","dtype":"F32"}})", "")),
            "x: header: the key 'dtype' stands there twice");
  EXPECT_EQ(refusal_of(file_of("{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}", "")),
            "x: header: nested deeper than 3 levels");
  EXPECT_EQ(refusal_of(file_of(R"({"a":{"shape":[[]]}})", "")), "x: header: nested deeper than 3 levels");
  EXPECT_EQ(refusal_of(file_of(R"({"__metadata__":{"n":3}})", "")), "x: __metadata__: 'n' is no string");
  EXPECT_EQ(refusal_of(file_of(R"({"__metadata__":3})", "")), "x: __metadata__ is no object");
}

TEST(Safetensors, RefusesADamagedEntry) {
  const auto refusal = [](const std::string& value) {
    return refusal_of(file_of("{\"a\":" + value + "}", "12345678"));
  };
  EXPECT_EQ(refusal("3"), "x: tensor 'a': number where an object is expected");
  EXPECT_EQ(refusal("{}"), "x: tensor 'a': no key 'shape'");
  EXPECT_EQ(refusal(R"({"offsets":[0,8]})"), "x: tensor 'a': the key 'offsets'; allowed: dtype, shape, data_offsets");
  EXPECT_EQ(refusal(entry("F64", "[1]", "[0,8]")),
            "x: tensor 'a': dtype \"F64\"; allowed: F32, F16, BF16, I32, I64, U8");
  EXPECT_EQ(refusal(entry("F32", "[1,2,1]", "[0,8]")),
            "x: tensor 'a': shape [1,2,1]; allowed: a list of at most 2 numbers");
  EXPECT_EQ(refusal(entry("F32", "2", "[0,8]")), "x: tensor 'a': shape 2; allowed: a list of at most 2 numbers");
  for (const char* shape : {"[-2]", "[2.0]", "[\"2\"]", "[18446744073709551615]", "[1e300]"})
    EXPECT_TRUE(begins_with(refusal(entry("F32", shape, "[0,8]")), "x: tensor 'a': shape [")) << shape;
  EXPECT_EQ(refusal(entry("F32", "[2]", "[8,0]")),
            "x: tensor 'a': data_offsets [8, 0]; allowed: [begin, end] with begin <= end");
  EXPECT_EQ(refusal(entry("F32", "[2]", "[8]")),
            "x: tensor 'a': data_offsets [8]; allowed: [begin, end] with begin <= end");
  EXPECT_EQ(refusal(entry("F32", "[4]", "[0,16]")),
            "x: tensor 'a': ends at byte 16 of the data, but the file has only 8: it is cut short or damaged");
  EXPECT_EQ(refusal(entry("F32", "[3]", "[0,8]")),
            "x: tensor 'a': the shape (1, 3) of F32 does not take the 8 bytes that data_offsets [0, 8] give it");
  // 2^62 * 4 bytes, and 2^62 * 4 elements, are 0 in 64 bits.
  EXPECT_EQ(refusal(entry("F32", "[4611686018427387904]", "[0,0]")),
            "x: tensor 'a': the shape (1, 4611686018427387904) of F32 does not take the 0 bytes that data_offsets "
            "[0, 0] give it");
  EXPECT_EQ(refusal(entry("F32", "[4611686018427387904,4]", "[0,0]")),
            "x: tensor 'a': the shape (4611686018427387904, 4) of F32 does not take the 0 bytes that data_offsets "
            "[0, 0] give it");
}

TEST(Safetensors, RefusesOverlapsAndHoles) {
  const auto refusal = [](std::string_view first, std::string_view second) {
    return refusal_of(file_of(
        fmt::format(R"({{"a":{},"b":{}}})", entry("U8", "[4]", first), entry("U8", "[4]", second)), "123456789"));
  };
  EXPECT_EQ(refusal("[0,4]", "[3,7]"), "x: tensor 'b' begins at byte 3 of the data, inside of the tensor before it");
  EXPECT_EQ(refusal("[0,4]", "[0,4]"), "x: tensor 'b' begins at byte 0 of the data, inside of the tensor before it");
  EXPECT_EQ(refusal("[0,4]", "[5,9]"), "x: bytes 4 to 5 of the data, before tensor 'b', belong to no tensor");
  EXPECT_EQ(refusal("[5,9]", "[1,5]"), "x: bytes 0 to 1 of the data, before tensor 'b', belong to no tensor");
  EXPECT_EQ(refusal("[4,8]", "[0,4]"), "x: the last 1 bytes belong to no tensor");
}

TEST(Safetensors, NamesTheTensorThatIsMissingOrMisshapen) {
  const std::string file = file_of(fmt::format(R"({{"layers.0.up":{}}})", entry("U8", "[2,2]", "[0,4]")), "1234");
  const SafeTensors read = parse_safetensors(file, "x");
  EXPECT_EQ(message_of([&] { read.at("layers.1.up", 2, 2); }),
            "x: no tensor 'layers.1.up'; the nearest is 'layers.0.up'");
  EXPECT_EQ(message_of([&] { read.at("norm", 2, 2); }), "x: no tensor 'norm'");
  EXPECT_EQ(message_of([&] { read.at("layers.0.up", 4, 1); }),
            "x: tensor 'layers.0.up' is (2, 2) where (4, 1) is expected");
}

/// Tensors of every dtype; an odd number of bytes comes before wider elements, and one has gaps between its rows.
struct Sample {
  std::vector<uint8_t> u8{1, 2, 3, 4, 5};
  std::vector<float> f32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  std::vector<bf16> b16{bf16(1), bf16(2), bf16(3)};
  std::vector<uint16_t> half{f32_to_f16(0.5), f32_to_f16(-2)};
  std::vector<int64_t> i64{INT64_MIN, INT64_MAX};
  std::vector<int32_t> i32{-1, 0, 1, 2};

  std::vector<NamedTensor> tensors() {
    const Tensor f16{.data = half.data(), .rows = 1, .cols = 2, .stride = 2, .dtype = DType::f16};
    return {{"u8", view_of(u8.data(), 1, 5)},   {"f32", view_of(f32.data(), 3, 4).col_range(1, 2)},
            {"b16", view_of(b16.data(), 3, 1)}, {"f16", f16},
            {"i64", view_of(i64.data(), 2, 1)}, {"i32", view_of(i32.data(), 2, 2)},
            {"none", view_of(f32.data(), 0, 4)}};
  }
};

void expect_same(const SafeTensors& read, const std::vector<NamedTensor>& written) {
  ASSERT_EQ(read.tensors.size(), written.size());
  for (const NamedTensor& w : written) {
    const Tensor r = read.at(w.name, w.tensor.rows, w.tensor.cols);
    EXPECT_EQ(r.dtype, w.tensor.dtype) << w.name;
    EXPECT_EQ(bytes_of(r), bytes_of(w.tensor)) << w.name;
  }
}

TEST(Safetensors, WritesWhatItReads) {
  const TestFolder folder;
  Sample sample;
  const std::vector<NamedTensor> tensors = sample.tensors();
  write_safetensors(folder.path / "a", tensors, {{"step", "12"}});
  const SafeTensors read = read_safetensors(folder.path / "a");
  expect_same(read, tensors);
  EXPECT_EQ(read.memory.size(), 1u) << "something was copied";
  EXPECT_EQ(read.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"step", "12"}}));
  write_safetensors(folder.path / "b", tensors, {{"step", "12"}});
  EXPECT_EQ(read_text_file(folder.path / "a", 10'000), read_text_file(folder.path / "b", 10'000));
}

// Oracle: the header by hand, from the format's description.
TEST(Safetensors, WritesTheFormat) {
  const TestFolder folder;
  const float m[] = {1, 2, 3, 4};
  const uint8_t u[] = {9};
  write_safetensors(folder.path / "a", std::vector<NamedTensor>{{"u", view_of(u, 1, 1)}, {"m", view_of(m, 2, 2)}});
  std::string header = R"({"__metadata__":{"format":"pt"},"m":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                       R"("u":{"dtype":"U8","shape":[1],"data_offsets":[16,17]}})";
  header.resize(184, ' ');
  EXPECT_EQ(read_text_file(folder.path / "a", 1000),
            file_of(header, std::string(reinterpret_cast<const char*>(m), 16) + "\x09"));
}

TEST(Safetensors, MapsWithoutACopy) {
  const TestFolder folder;
  Sample sample;
  const std::vector<NamedTensor> tensors = sample.tensors();
  write_safetensors(folder.path / "a", tensors);
  const SafeTensors read = read_safetensors(folder.path / "a");
  const auto* file = static_cast<const MappedFile*>(read.memory[0].get());
  for (const auto& [name, t] : read.tensors) {
    EXPECT_GE(static_cast<const char*>(t.data), file->bytes().data()) << name;
    EXPECT_LE(static_cast<const char*>(t.data) + t.bytes(), file->bytes().data() + file->bytes().size()) << name;
  }
}

TEST(SafetensorsFolder, WritesShardsAndTheirIndex) {
  const TestFolder folder;
  Sample sample;
  const std::vector<NamedTensor> tensors = sample.tensors();
  const std::vector<NamedTensor>& t = tensors;  // 5, 24, 6, 4, 16, 16, 0 bytes
  const std::vector<std::vector<NamedTensor>> groups{{t[0]}, {t[1]}, {t[2]}, {t[3], t[4], t[5]}, {t[6]}};
  write_safetensors_folder(folder.path, groups, 30);
  EXPECT_FALSE(fs::exists(folder.path / "model.safetensors"));
  const std::string index = read_text_file(folder.path / "model.safetensors.index.json", 10'000);
  EXPECT_EQ(nlohmann::json::parse(index), nlohmann::json::parse(R"({"metadata": {"total_size": 71}, "weight_map": {
      "u8": "model-00001-of-00004.safetensors", "f32": "model-00001-of-00004.safetensors",
      "b16": "model-00002-of-00004.safetensors", "f16": "model-00003-of-00004.safetensors",
      "i64": "model-00003-of-00004.safetensors", "i32": "model-00003-of-00004.safetensors",
      "none": "model-00004-of-00004.safetensors"}})"));
  expect_same(read_safetensors_folder(folder.path), tensors);
}

TEST(SafetensorsFolder, NeedsNoIndexForOneFile) {
  const TestFolder folder;
  Sample sample;
  const std::vector<NamedTensor> tensors = sample.tensors();
  write_safetensors_folder(folder.path, std::vector<std::vector<NamedTensor>>{tensors}, 1000);
  EXPECT_FALSE(fs::exists(folder.path / "model.safetensors.index.json"));
  expect_same(read_safetensors_folder(folder.path), tensors);
}

TEST(SafetensorsFolder, RefusesAnIndexThatDisagrees) {
  const TestFolder folder;
  const fs::path index = folder.path / "model.safetensors.index.json";
  const auto refusal = [&](std::string_view text) {
    write_text(index, text);
    return message_of([&] { read_safetensors_folder(folder.path); });
  };
  EXPECT_EQ(message_of([&] { read_safetensors_folder(folder.path); }),
            folder.path.string() + ": neither model.safetensors nor model.safetensors.index.json is there");
  const uint8_t u[] = {9, 8};
  write_safetensors(folder.path / "s.safetensors",
                    std::vector<NamedTensor>{{"a", view_of(u, 1, 1)}, {"b", view_of(u, 1, 2)}});
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"s.safetensors","b":"s.safetensors"}})"), "");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"s.safetensors"}})"),
            index.string() + ": tensor 'b' is in s.safetensors, where the index does not list it");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"s.safetensors","b":"s.safetensors","c":"s.safetensors"}})"),
            index.string() + ": tensor 'c' is not in s.safetensors");
  write_safetensors(folder.path / "t.safetensors", std::vector<NamedTensor>{{"c", view_of(u, 1, 1)}});
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"s.safetensors","b":"t.safetensors","c":"t.safetensors"}})"),
            index.string() + ": tensor 'b' is in s.safetensors, where the index does not list it");
  EXPECT_EQ(refusal(R"({"weight_map":{"a":"none.safetensors"}})"),
            (folder.path / "none.safetensors").string() + ": cannot be read: No such file or directory");
  for (const char* name : {"../s.safetensors", "/s.safetensors", "d/s.safetensors", "s.bin", "..", ""})
    EXPECT_EQ(refusal(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name)),
              fmt::format("{}: tensor 'a': \"{}\"; allowed: the name of a .safetensors file in the same folder",
                          index.string(), name));
  EXPECT_EQ(refusal(R"({"weight_map":[]})"), index.string() + ": no object 'weight_map'");
  EXPECT_EQ(refusal("[]"), index.string() + ": no object 'weight_map'");
}

// A download that keeps its files elsewhere leaves such links when those are cleared away.
TEST(SafetensorsFolder, NamesALinkToNothing) {
  const TestFolder folder;
  const fs::path file = folder.path / "model.safetensors";
  fs::create_symlink("gone", file);
  EXPECT_EQ(message_of([&] { read_safetensors_folder(folder.path); }),
            file.string() + ": cannot be read: No such file or directory");
}

TEST(SafetensorsFolder, ReadsATrainedModel) {
  const fs::path data = test_data() / "stories260k";
  if (!fs::exists(data)) GTEST_SKIP() << data << " is not there; TANGRAM_TEST_DATA says where it is";
  const SafeTensors model = read_safetensors_folder(data);
  EXPECT_EQ(model.tensors.size(), 47u);
  EXPECT_EQ(model.at("model.layers.0.mlp.up_proj.weight", 172, 64).dtype, DType::f32);
  EXPECT_EQ(read_safetensors(data / "reference.safetensors").at("input_ids", 1, 64).as<int32_t>()[0], 1);
}

}  // namespace
}  // namespace tangram
