#include "puzzle/hdf5.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include "blocks/file.h"
#include "kernels/error.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

struct Hdf5Test : ::testing::Test {
  const TestFolder folder;
  const fs::path path = folder.path / "scores.h5";
};

template <class... Numbers>
std::string bytes_of(Numbers... numbers) {
  std::string bytes;
  (bytes.append(reinterpret_cast<const char*>(&numbers), sizeof numbers), ...);
  return bytes;
}

// As in the HDF5 File Format Specification 3.0, sections III.E and IV.A.2.d.
std::string heap_of(const std::string& objects) { return "GCOL" + bytes_of(uint32_t{1}, uint64_t{4096}) + objects; }
std::string object_of(uint16_t index, uint64_t size, const std::string& padded = "") {
  return bytes_of(index, uint16_t{1}, uint32_t{0}, size) + padded;
}

// Two texts, whose bytes are looked up in heaps made by hand behind the rest of the file: HDF5 1.10 crashes or hangs
// on some of these.
class Hdf5Texts : public Hdf5Test {
 protected:
  Hdf5Texts() {
    Hdf5Writer writer(path);
    writer.put("text", {"text"}, std::vector<std::string>{"one", "two"});
    writer.save();
    image_ = read_text_file(path, 1 << 26);
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), array = H5Dopen2(file, "text", H5P_DEFAULT);
    references_ = H5Dget_offset(array);
    H5Dclose(array), H5Fclose(file);
  }
  // Both texts, when they have this length and stand in this object of the heap at `heap` + `offset`.
  std::vector<std::string> read(const std::string& heap, uint32_t length, uint32_t index, uint64_t offset = 0) {
    std::string image = image_ + heap;
    const std::string reference = bytes_of(length, image_.size() + offset, index);
    image.replace(references_, 2 * reference.size(), reference + reference);
    seal(image);
    write_file_atomically(path, image);
    return Hdf5Reader(path).strings("text", {2});
  }
  std::string refused(const std::string& heap, uint32_t length, uint32_t index, uint64_t offset = 0) {
    return message_of([&] { read(heap, length, index, offset); });
  }
  std::string image_;
  size_t references_;
};

TEST_F(Hdf5Texts, AreFoundInTheirHeap) {
  const std::string heap = heap_of(object_of(5, 8, "12345678") + object_of(3, 5, "abcde---") + object_of(0, 0) +
                                   object_of(7, 8, "87654321"));
  const auto both = [](const std::string& text) { return std::vector{text, text}; };
  EXPECT_EQ(read(heap, 8, 5), both("12345678"));
  EXPECT_EQ(read(heap, 5, 3), both("abcde"));
  EXPECT_EQ(read(heap, 0, 0, UINT64_MAX), both("")) << "nothing needs no place";
  EXPECT_THAT(refused(heap, 9, 5), HasSubstr("'text' has no text 5 where one should be")) << "it is shorter";
  EXPECT_THAT(refused(heap, 8, 7), HasSubstr("'text' has no text 7 where one should be")) << "behind the heap's end";
  EXPECT_THAT(refused(heap, 5, 0x1'0003), HasSubstr("'text' has no text 65539 where one should be"));
  EXPECT_THAT(refused(heap, 8, 5, 16), HasSubstr(fmt::format("'text' has a text at {}, where", image_.size() + 16)));
  EXPECT_THAT(refused(heap, 8, 5, 1 << 20), HasSubstr("'text' has 16 bytes at "));
  EXPECT_THAT(refused(heap, 8, 5, -image_.size() - 8),
              HasSubstr("'text' has 16 bytes at 18446744073709551608, beyond"));
}

TEST_F(Hdf5Texts, OfObjectsThatLeadOutOfTheFileAreRefused) {
  EXPECT_THAT(refused(heap_of(object_of(9, 1000)), 1000, 9), HasSubstr("'text' has 1000 bytes at "));
  for (const uint64_t size : {uint64_t{1} << 40, UINT64_MAX, UINT64_MAX - 6})
    EXPECT_THAT(refused(heap_of(object_of(9, size)), 1, 8), HasSubstr("'text' has no text 8 where one should be"));
}

TEST_F(Hdf5Texts, ThatShareTheirBytesCannotFillTheMemory) {
  EXPECT_THAT(refused(heap_of(object_of(9, 65536, std::string(65536, 'x'))), 65536, 9),
              HasSubstr("'text' has more bytes of text than the file"));
}

TEST_F(Hdf5Test, WhatIsWrongIsSaidOnce) {
  std::string image = "no HDF5";
  seal(image);
  write_file_atomically(path, image);
  ::testing::internal::CaptureStderr();
  EXPECT_THAT(message_of([&] { Hdf5Reader reader(path); }), HasSubstr("cannot be read as HDF5: "));
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "") << "HDF5 prints its own errors unless told otherwise";
}

TEST_F(Hdf5Test, AnArrayOverNoDimensionOrOfAnotherLengthIsRefused) {
  Hdf5Writer writer(path);
  writer.put("x", {"x"}, std::vector<double>{1, 2});
  EXPECT_THAT(message_of([&] { writer.put("y", {"z"}, std::vector<double>{1}); }), HasSubstr("y has no dimension 'z'"));
  EXPECT_THAT(message_of([&] { writer.put("y", {"x"}, std::vector<double>{1}); }),
              HasSubstr("y has 1 values; must be 2"));
  EXPECT_THAT(message_of([&] { writer.put("z", {"z"}, std::vector<double>{}); }), HasSubstr("z has 0 values"));
}

}  // namespace
}  // namespace tangram
