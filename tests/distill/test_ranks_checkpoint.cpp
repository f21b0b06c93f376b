// Checkpoints of as many processes as mpirun starts, and training that goes on from them on fewer. Oracle: the sums
// that every rank can compute.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "nas/interruption.h"
#include "nas/training_loop.h"
#include "tests/blocks/folder.h"
#include "tests/kernels/test_ranks.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kTensors = 12, kSteps = 300;

/// A run whose state is `kTensors` numbers, of which each rank of a group has every size()-th. A step adds its number
/// and one more for the tensor to each.
class Counting {
 public:
  Counting(Communicator group, fs::path folder) : group_(std::move(group)), folder_(std::move(folder)) {
    for (int64_t i = group_.rank(); i < kTensors; i += group_.size()) {
      tensors_.push_back({fmt::format("counter.{}", i), memory_.tensor(1, 1, DType::f32)});
      numbers_.push_back(i);
      tensors_.back().tensor.as<float>()[0] = 0;
    }
  }

  /// Trains to the end, or until there is a checkpoint of its own, when the leader is asked to end.
  void run(bool to_the_end) {
    const ListenForInterruption listen;
    Context ctx;
    Console console(stderr, false, true);
    LossCurve curve{.columns = {"sum"}, .values = {}};
    run_training({.label = "count",
                  .steps = kSteps,
                  .tokens_per_step = 1,
                  .checkpoint_seconds = 1e-9,
                  .checkpoints = folder_,
                  .state = [&] { return tensors_; },
                  .resume = [&](int64_t steps_done) { resumed_at = steps_done; },
                  .step = [&](int64_t step, bool) { return std::vector<float>{take(step, to_the_end)}; },
                  .note = [](auto) { return std::string(); },
                  .world = &group_},
                 curve, console, ctx);
    for (int64_t s = 0; group_.rank() == 0 && s < kSteps; ++s) EXPECT_EQ(curve.values[size_t(s)], float(s)) << s;
  }

  void expect_done() const {
    for (size_t i = 0; i < tensors_.size(); ++i)
      EXPECT_EQ(tensors_[i].tensor.as<float>()[0], float(kSteps * (kSteps - 1) / 2 + kSteps * numbers_[i]));
  }

  int64_t resumed_at = 0;

 private:
  float take(int64_t step, bool to_the_end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (!to_the_end && group_.rank() == 0 && newest_step() > resumed_at) raise(SIGUSR1);
    for (size_t i = 0; i < tensors_.size(); ++i) tensors_[i].tensor.as<float>()[0] += float(step + numbers_[i]);
    return float(step);
  }
  int64_t newest_step() const {
    int64_t newest = 0;
    std::error_code absent;
    for (const auto& entry : fs::directory_iterator(folder_, absent))
      if (fs::exists(entry.path() / "manifest.json"))
        newest = std::max<int64_t>(newest, std::stoll(entry.path().filename().string().substr(5)));
    return newest;
  }

  Communicator group_;
  const fs::path folder_;
  Arena memory_{1 << 12};
  std::vector<NamedTensor> tensors_;
  std::vector<int64_t> numbers_;
};

TEST(RanksCheckpoint, TrainingGoesOnOnFewerRanksAndOnMore) {
  const TestFolder own;
  const fs::path folder = world().broadcast((own.path / "checkpoint").string(), 0);
  for (int size = world().size(); size >= 1; --size) {
    Communicator group = world().split(world().rank() < size ? 0 : 1, world().rank());
    if (world().rank() < size) {
      Counting some(group, folder);
      EXPECT_THAT(message_of([&] { some.run(false); }), HasSubstr("interrupted"));
      EXPECT_EQ(some.resumed_at > 0, size < world().size());
    }
    world().barrier();
  }
  Counting last(world(), folder);
  last.run(true);
  EXPECT_GT(last.resumed_at, 0);
  last.expect_done();
  world().barrier();  // the folder is rank 0's
}

}  // namespace
}  // namespace tangram
