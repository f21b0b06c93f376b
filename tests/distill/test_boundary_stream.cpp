#include "distill/boundary_stream.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "blocks/file.h"
#include "blocks/safetensors.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

constexpr BoundaryShape kShape{.batches = 7, .batch_tokens = 3, .hidden_size = 5, .dtype = DType::f32};

struct BoundaryStreamTest : testing::Test {
  Context ctx{Context::Options{.threads = 1}};
  TestFolder folder;
  const fs::path first = boundary_path(folder.path, 1), second = boundary_path(folder.path, 2);

  // Batch b of `from` times 2, or b itself, into `to`.
  void carry(BoundaryStream& stream, int64_t begin, int64_t end, bool read) {
    for (int64_t b = begin; b < end; ++b) {
      const Tensor x = stream.take();
      for (int64_t i = 0; i < x.size(); ++i) {
        if (read) {
          EXPECT_EQ(x.as<float>()[i], float(100 * b + i));
        }
        x.as<float>()[i] = read ? 2 * x.as<float>()[i] : float(100 * b + i);
      }
      stream.give_back();
    }
  }
  void write_first() {
    BoundaryStream stream("", first, kShape, 0, ctx);
    carry(stream, 0, kShape.batches, false);
    stream.finish();
  }
};

TEST_F(BoundaryStreamTest, CarriesBatchesFromOneFileToTheNext) {
  write_first();
  {
    BoundaryStream stream(first, second, kShape, 0, ctx);
    carry(stream, 0, kShape.batches, true);
    EXPECT_FALSE(fs::exists(second));
    stream.finish();
    EXPECT_EQ(stream.times().bytes_read, kShape.bytes());
    EXPECT_EQ(stream.times().bytes_written, kShape.bytes());
  }
  // Any safetensors reader sees one tensor.
  const SafeTensors file = read_safetensors(second);
  const Tensor x = file.at("residual", 21, 5);
  ASSERT_EQ(file.tensors.size(), 1u);
  for (int64_t b = 0; b < kShape.batches; ++b)
    for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(x.as<float>()[15 * b + i], float(2 * (100 * b + i)));
  BoundaryStream last(second, "", kShape, 0, ctx);
  for (int64_t b = 0; b < kShape.batches; ++b) last.take(), last.give_back();
  last.finish();
}

TEST_F(BoundaryStreamTest, GoesOnWhereItWasFlushed) {
  write_first();
  {
    BoundaryStream stream(first, second, kShape, 0, ctx);
    carry(stream, 0, 3, true);
    stream.flush();
    carry(stream, 3, 4, true);  // may be lost
  }
  BoundaryStream stream(first, second, kShape, 3, ctx);
  carry(stream, 3, kShape.batches, true);
  stream.finish();
  BoundaryStream whole(first, boundary_path(folder.path, 3), kShape, 0, ctx);
  carry(whole, 0, kShape.batches, true);
  whole.finish();
  EXPECT_EQ(read_text_file(second, 1 << 20), read_text_file(boundary_path(folder.path, 3), 1 << 20));
}

TEST_F(BoundaryStreamTest, RefusesAFileOfAnotherShape) {
  write_first();
  for (const BoundaryShape& other :
       {BoundaryShape{7, 3, 4, DType::f32}, BoundaryShape{6, 3, 5, DType::f32}, BoundaryShape{7, 3, 5, DType::bf16}})
    EXPECT_THROW(BoundaryStream(first, second, other, 0, ctx), Error);
  fs::resize_file(first, fs::file_size(first) - 1);
  EXPECT_THROW(BoundaryStream(first, second, kShape, 0, ctx), Error);
  EXPECT_THROW(BoundaryStream(boundary_path(folder.path, 9), second, kShape, 0, ctx), Error);
  EXPECT_THROW(BoundaryStream("", second, kShape, 2, ctx), Error);  // there is nothing to go on with
}

// A file that is cut short while it is read ends the run at the next take.
TEST_F(BoundaryStreamTest, AFailureOfAThreadReachesTheCaller) {
  const BoundaryShape many{.batches = 4000, .batch_tokens = 3, .hidden_size = 5, .dtype = DType::f32};
  {
    BoundaryStream stream("", first, many, 0, ctx);
    for (int64_t b = 0; b < many.batches; ++b) stream.take(), stream.give_back();
    stream.finish();
  }
  BoundaryStream stream(first, second, many, 0, ctx);
  fs::resize_file(first, 4096);
  const auto read_all = [&] {
    for (int64_t b = 0; b < many.batches; ++b) {
      stream.take();
      stream.give_back();
    }
  };
  EXPECT_THROW(read_all(), Error);
}

TEST_F(BoundaryStreamTest, NoRoomIsFoundBeforeTheWork) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit little = {400, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &little);
  EXPECT_THROW(BoundaryStream("", first, kShape, 0, ctx), Error);
  setrlimit(RLIMIT_FSIZE, &before);
}

// One batch at a time is with the caller.
TEST_F(BoundaryStreamTest, TakesAndGivesInTurn) {
  BoundaryStream stream("", "", kShape, 0, ctx);
  EXPECT_THROW(stream.give_back(), Error);
  stream.take();
  EXPECT_THROW(stream.take(), Error);
  EXPECT_THROW(stream.finish(), Error);
}

TEST(IoTimes, HiddenIsWhatNobodyWaitedFor) {
  IoTimes times{.read_seconds = 3, .write_seconds = 1, .waited_seconds = 1, .bytes_read = 5, .bytes_written = 6};
  EXPECT_DOUBLE_EQ(times.hidden_fraction(), 0.75);
  times += IoTimes{.read_seconds = 0, .write_seconds = 4, .waited_seconds = 0, .bytes_read = 1, .bytes_written = 1};
  EXPECT_DOUBLE_EQ(times.hidden_fraction(), 0.875);
  EXPECT_EQ(times.bytes_read, 6);
  EXPECT_EQ(IoTimes().hidden_fraction(), 1);
}

}  // namespace
}  // namespace tangram
