// Files of scores that are old, damaged, or no such files at all.

#include <gmock/gmock.h>
#include <hdf5.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "kernels/error.h"
#include "score_example.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;

struct ScoreFileTest : ScoreFolder {
  void delete_arrays(const std::vector<const char*>& names) {
    const hid_t file = H5Fopen(path().c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    for (const char* name : names) EXPECT_GE(H5Ldelete(file, name, H5P_DEFAULT), 0);
    H5Fclose(file);
    write_sealed(path(), bytes_of(path()));
  }
};

hid_t utf8_text() {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE), H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

// As the first files of this format are: measured on one device.
TEST_F(ScoreFileTest, FilesWithoutSourcesOfCostsAreRead) {
  ScoreTable table = example_table();
  table.scenarios[1].own_kv_precision = {}, table.scenarios[1].tensor_parallel = 1;
  table.sources = {{.name = kMeasured}, {.name = kMeasured}};
  write_scores(table, path());
  delete_arrays({"kv_precision", "tensor_parallel", "cost_source", "prefill_factor", "decode_factor", "prefill_error",
                 "decode_error", "timings", "disturbed_timings"});
  EXPECT_EQ(text_of(read_scores(path())), text_of(table));
}

// As those are from before timings were watched.
TEST_F(ScoreFileTest, FilesWithoutCountsOfTimingsAreRead) {
  ScoreTable table = example_table();
  table.sources[0].timings = table.sources[0].disturbed_timings = 0;
  write_scores(table, path());
  delete_arrays({"timings", "disturbed_timings"});
  EXPECT_EQ(text_of(read_scores(path())), text_of(table));
}

// A file that differs from a good one in the array `name`, and is sealed again.
class Changed {
 public:
  Changed(const fs::path& path, const std::string& name)
      : path_(path), file_(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)), name_(name) {
    H5Ldelete(file_, name.c_str(), H5P_DEFAULT);
  }
  ~Changed() {
    H5Fclose(file_);
    write_sealed(path_, bytes_of(path_));
  }
  void put(hid_t type, std::vector<hsize_t> shape, const void* values = nullptr) {
    const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
    put(type, shape, values, create);
    H5Pclose(create);
  }
  void put(hid_t type, std::vector<hsize_t> shape, const void* values, hid_t create) {
    const hid_t space = H5Screate_simple(int(shape.size()), shape.data(), nullptr);
    const hid_t array = H5Dcreate2(file_, name_.c_str(), type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (values) H5Dwrite(array, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    H5Dclose(array), H5Sclose(space);
  }
  hid_t file() const { return file_; }

 private:
  fs::path path_;
  hid_t file_;
  std::string name_;
};

TEST_F(ScoreFileTest, DamagedArraysAreRefusedByName) {
  const auto refused = [&](const std::string& name, auto&& change) {
    write_scores(example_table(), path());
    {
      Changed changed(path(), name);
      change(changed);
    }
    return refusal_of([&] { read_scores(path()); });
  };
  const auto text = utf8_text();
  EXPECT_THAT(refused("ffn", [](auto&) {}), HasSubstr("scores.h5: no array 'ffn'"));
  EXPECT_THAT(refused("value", [](auto& f) { f.put(H5T_IEEE_F64LE, {7, 2}); }), HasSubstr("is (7, 2); must be (8, 2)"));
  EXPECT_THAT(refused("value", [](auto& f) { f.put(H5T_IEEE_F32LE, {8, 2}); }), HasSubstr("another type"));
  EXPECT_THAT(refused("value", [](auto& f) { f.put(H5T_IEEE_F64LE, {8, 2}); }), HasSubstr("not stored whole"));
  EXPECT_THAT(refused("ffn", [](auto& f) { f.put(H5T_STD_I64LE, {8}); }), HasSubstr("another type"));
  EXPECT_THAT(refused("first_layer", [&](auto& f) { f.put(text, {8}); }), HasSubstr("another type"));
  EXPECT_THAT(refused("replacement", [](auto& f) { f.put(H5T_STD_I64LE, {hsize_t{1} << 60}); }), HasSubstr("claims"));
  EXPECT_THAT(refused("replacement", [&](auto& f) { f.put(text, {8, 1}); }), HasSubstr("must have one dimension"));
  EXPECT_THAT(refused("metric", [](auto& f) { f.put(H5T_STD_I64LE, {600}); }), HasSubstr("'metric'"));
  EXPECT_THAT(refused("ffn", [](auto& f) { H5Lcreate_soft("/attention", f.file(), "ffn", H5P_DEFAULT, H5P_DEFAULT); }),
              HasSubstr("is a link"));
  EXPECT_THAT(refused("layer", [](auto&) {}), HasSubstr("0 layers"));
  const int64_t two_twos[] = {2, 2};
  EXPECT_THAT(refused("higher_is_better", [&](auto& f) { f.put(H5T_STD_I64LE, {2}, two_twos); }),
              HasSubstr("'higher_is_better' is 2; must be 0 or 1"));
  const char* precisions[] = {"bf16", "f64"};
  EXPECT_THAT(refused("precision", [&](auto& f) { f.put(text, {2}, precisions); }),
              HasSubstr("scores.h5: no precision 'f64'"));
}

// HDF5 would follow these wherever they lead.
TEST_F(ScoreFileTest, ArraysThatAreNotPlainlyInTheFileAreRefused) {
  const auto refused = [&](auto&& set) {
    write_scores(example_table(), path());
    {
      Changed changed(path(), "value");
      const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
      set(create);
      changed.put(H5T_IEEE_F64LE, {8, 2}, std::vector<double>(16).data(), create);
      H5Pclose(create);
    }
    EXPECT_THAT(refusal_of([&] { read_scores(path()); }),
                HasSubstr("'value' must be stored contiguously in this file"));
  };
  const hsize_t chunk[] = {8, 2};
  refused([&](hid_t create) { H5Pset_chunk(create, 2, chunk); });
  refused([&](hid_t create) { H5Pset_chunk(create, 2, chunk), H5Pset_deflate(create, 1); });
  refused([&](hid_t create) { H5Pset_layout(create, H5D_COMPACT); });
  refused([&](hid_t create) { H5Pset_external(create, path("elsewhere").c_str(), 0, H5F_UNLIMITED); });
}

TEST_F(ScoreFileTest, WhatIsNoScoreTableIsRefused) {
  EXPECT_THAT(refusal_of([&] { read_scores(path("absent.h5")); }), HasSubstr("absent.h5: cannot be read"));
  write_sealed(path(), "this is text");
  EXPECT_THAT(refusal_of([&] { read_scores(path()); }), HasSubstr("cannot be read as HDF5"));
  H5Fclose(H5Fcreate(path().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  write_sealed(path(), bytes_of(path()));
  EXPECT_THAT(refusal_of([&] { read_scores(path()); }), HasSubstr("is no score table"));
}

// HDF5 itself would read most of these without a word: values and texts have no checksum in it.
TEST_F(ScoreFileTest, AFileThatIsNotAsWrittenIsRefused) {
  write_scores(example_table(), path());
  const std::string good = bytes_of(path());
  const auto expect_refused = [&](const std::string& bytes, const std::string& change) {
    std::ofstream(path("bad.h5"), std::ios::binary | std::ios::trunc) << bytes;
    EXPECT_THAT(refusal_of([&] { read_scores(path("bad.h5")); }), HasSubstr("bad.h5: its last line must be")) << change;
  };
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    const size_t at = i < 80 ? good.size() - 1 - size_t(i) : random() % good.size();  // the seal's own bytes, and any
    const char bit = char(1 << random() % 8);
    std::string bytes = good;
    bytes[at] = char(bytes[at] ^ bit);
    expect_refused(bytes, fmt::format("byte {} of {} flipped by {:#x}", at, good.size(), bit));
  }
  for (size_t n = 0; n < good.size(); n += 397) expect_refused(good.substr(0, n), fmt::format("cut after {} bytes", n));
  for (const char last : {'\0', '\n'}) expect_refused(good + last, "one byte longer");
  expect_refused("", "empty");
}

// The digest keeps accidents away, but anyone can compute it.
TEST_F(ScoreFileTest, ASealedFileIsReadOrRefusedWhateverItHolds) {
  write_scores(example_table(), path());
  const std::string good = bytes_of(path());
  const auto read_damaged = [&] {
    std::mt19937 random(11);
    int refused = 0;
    for (int i = 0; i < 200; ++i) {
      std::string image = good.substr(0, good.rfind("\nsha256"));
      for (uint64_t n = 1 + random() % 3; n > 0; --n) image[random() % image.size()] = char(random());
      write_sealed(path("bad.h5"), image);
      try {
        read_scores(path("bad.h5"));
      } catch (const Error& error) {
        if (error.failure != Failure::bad_input || !std::strstr(error.what(), "bad.h5")) std::_Exit(2);
        ++refused;
      }
    }
    std::_Exit(refused > 100 ? 0 : 3);
  };
  // In a process of its own, because HDF5 leaks what it cannot read.
  EXPECT_EXIT(read_damaged(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tangram
