#include "tests/kernels/test_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <numeric>
#include <thread>

#include "tests/blocks/folder.h"

// The Communicator on as many ranks as mpirun starts, each of which runs every test; alone the group of one. What every
// rank sends is known to all, so each compares all that it gets.

namespace tangram {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

std::vector<uint8_t> bytes_of(int rank, int64_t count) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) bytes[size_t(i)] = uint8_t(i * 31 + i / 251 + rank + 1);
  return bytes;
}
Tensor view(std::vector<uint8_t>& bytes) { return view_of(bytes.data(), 1, int64_t(bytes.size())); }

int next() { return (world().rank() + 1) % world().size(); }
int previous() { return (world().rank() + world().size() - 1) % world().size(); }

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return double(t.tv_sec) + double(t.tv_usec) * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class Ranks : public testing::Test {};
/// What takes at least two.
class SeveralRanks : public testing::Test {
 protected:
  void SetUp() override {
    if (world().size() == 1) GTEST_SKIP() << "one rank";
  }
};

TEST_F(SeveralRanks, MessagesOfAnySizeGoRoundARing) {
  for (const int64_t size :
       {int64_t{0}, int64_t{1}, int64_t{4096}, int64_t{4 << 20}, int64_t{(4 << 20) + 1}, int64_t{100'000'000}}) {
    std::vector<uint8_t> mine = bytes_of(world().rank(), size), theirs(mine.size());
    Pending sent = world().send(view(mine), next(), 5), received = world().receive(view(theirs), previous(), 5);
    received.wait();
    sent.wait();
    ASSERT_EQ(theirs, bytes_of(previous(), size)) << size;
  }
}

TEST_F(SeveralRanks, ExchangeStartsAllMessages) {
  std::vector<uint8_t> one = bytes_of(world().rank(), 100), two = bytes_of(world().rank() + 50, 5 << 20);
  std::vector<uint8_t> a(one.size()), b(two.size());
  world()
      .exchange({{Message::received, view(b), previous(), 2},
                 {Message::received, view(a), next(), 1},
                 {Message::sent, view(one), previous(), 1},
                 {Message::sent, view(two), next(), 2}})
      .wait();
  EXPECT_EQ(a, bytes_of(next(), 100));
  EXPECT_EQ(b, bytes_of(previous() + 50, 5 << 20));
  world().exchange({}).wait();
}

TEST_F(SeveralRanks, TagsMeetWhateverTheOrder) {
  constexpr int kMessages = 20;
  std::vector<int64_t> mine(kMessages), theirs(kMessages);
  std::iota(mine.begin(), mine.end(), 1000 * world().rank());
  std::vector<Pending> all;
  for (int tag = 0; tag < kMessages; ++tag) all.push_back(world().send(view_of(&mine[size_t(tag)], 1, 1), next(), tag));
  for (int tag = kMessages - 1; tag >= 0; --tag)
    all.push_back(world().receive(view_of(&theirs[size_t(tag)], 1, 1), previous(), tag));
  for (Pending& p : all) p.wait();
  for (int tag = 0; tag < kMessages; ++tag) EXPECT_EQ(theirs[size_t(tag)], 1000 * previous() + tag);
}

TEST_F(SeveralRanks, MessagesWithOneTagKeepTheirOrder) {
  // Large and small: those that go in several messages must not be mixed.
  const std::vector<int64_t> sizes = {9 << 20, 1, 5 << 20, 0, 300};
  std::vector<std::vector<uint8_t>> mine, theirs;
  for (const int64_t size : sizes)
    mine.push_back(bytes_of(world().rank() + 7, size)), theirs.emplace_back(size_t(size));
  std::vector<Pending> all;
  for (auto& bytes : mine) all.push_back(world().send(view(bytes), next(), 0));
  for (auto& bytes : theirs) all.push_back(world().receive(view(bytes), previous(), 0));
  all.clear();  // waits
  for (size_t i = 0; i < sizes.size(); ++i) EXPECT_EQ(theirs[i], bytes_of(previous() + 7, sizes[i])) << i;
}

TEST_F(SeveralRanks, TextsHaveAnySize) {
  const auto text = [](int rank, size_t size) { return std::string(size, char('a' + rank)); };
  for (const size_t size : {size_t{0}, size_t{5}, size_t{10} << 20}) {
    Pending sent = world().send(text(world().rank(), size), next(), Communicator::kTags - 1);
    EXPECT_EQ(world().receive_string(previous(), Communicator::kTags - 1), text(previous(), size));
    sent.wait();
  }
}

TEST_F(SeveralRanks, MessagesMoveWhileTheCallerComputes) {
  std::vector<uint8_t> mine = bytes_of(world().rank(), 64 << 20), theirs(mine.size());
  world().barrier();
  Pending sent = world().send(view(mine), next(), 1), received = world().receive(view(theirs), previous(), 1);
  // The caller sees by the memory alone that all has come.
  const volatile uint8_t& last = theirs.back();
  const uint8_t expected = bytes_of(previous(), 64 << 20).back();
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (last != expected && std::chrono::steady_clock::now() < end)
    ;
  EXPECT_EQ(last, expected);
  received.wait();
  sent.wait();
  EXPECT_EQ(theirs, bytes_of(previous(), 64 << 20));
}

TEST_F(SeveralRanks, WaitingTakesNoProcessor) {
  constexpr auto kTime = 1s;
  world().barrier();
  const double before = cpu_seconds();
  uint8_t byte = 1;
  if (world().rank() == 0) {
    std::this_thread::sleep_for(kTime);
    for (int r = 1; r < world().size(); ++r) world().send(view_of(&byte, 1, 1), r, 0).wait();
  } else {
    world().receive(view_of(&byte, 1, 1), 0, 0).wait();
  }
  EXPECT_LT(cpu_seconds() - before, 0.05);
}

TEST_F(Ranks, NobodyLeavesABarrierBeforeAllHaveEntered) {
  for (int last = 0; last < world().size(); ++last) {
    if (world().rank() == last) std::this_thread::sleep_for(30ms);
    const auto now = [] { return std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()); };
    const std::string entered = now();
    world().barrier();
    const std::string left = now();
    int64_t last_entry = 0, first_exit = std::numeric_limits<int64_t>::max();
    for (const std::string& t : world().gather(entered)) last_entry = std::max<int64_t>(last_entry, std::stoll(t));
    for (const std::string& t : world().gather(left)) first_exit = std::min<int64_t>(first_exit, std::stoll(t));
    EXPECT_LE(last_entry, first_exit);  // one clock: the ranks are on one machine
  }
}

TEST_F(Ranks, GatherGivesAllToAll) {
  const auto text = [](int rank) { return std::string(size_t(rank) * 100'000, char('a' + rank)); };  // rank 0: empty
  const std::vector<std::string> all = world().gather(text(world().rank()));
  ASSERT_EQ(int(all.size()), world().size());
  for (int r = 0; r < world().size(); ++r) EXPECT_EQ(all[size_t(r)], text(r));
}

TEST_F(Ranks, BroadcastComesFromAnyRoot) {
  for (int root = 0; root < world().size(); ++root) {
    for (const int64_t size : {int64_t{0}, int64_t{3}, int64_t{4 << 20}, int64_t{10'000'001}}) {
      std::vector<uint8_t> bytes = bytes_of(world().rank(), size);
      world().broadcast(view(bytes), root);
      ASSERT_EQ(bytes, bytes_of(root, size)) << root << " " << size;
    }
    EXPECT_EQ(world().broadcast(fmt::format("plan of rank {}", world().rank()), root),
              fmt::format("plan of rank {}", root));
  }
}

TEST_F(Ranks, WhatDiffersIsNamed) {
  world().same_everywhere("sha256:12", "the config");
  if (world().size() == 1) return;
  const int odd = world().size() - 1;
  const std::string mine = world().rank() == odd ? "other" : "same";
  EXPECT_EQ(message_of([&] { world().same_everywhere(mine, "the config"); }),
            fmt::format("the config: must be the same on every rank, but is\n  rank 0: same\n  rank {}: other", odd));
}

TEST_F(Ranks, SplitMakesGroupsInTheOrderOfKeys) {
  Communicator half = world().split(world().rank() % 2, -world().rank());  // odd and even ranks, each backwards
  std::vector<std::string> expected;
  for (int r = world().size() - 1; r >= 0; --r)
    if (r % 2 == world().rank() % 2) expected.push_back(std::to_string(r));
  EXPECT_EQ(half.gather(std::to_string(world().rank())), expected);
  EXPECT_EQ(expected[size_t(half.rank())], std::to_string(world().rank()));
  float x = float(world().rank()), sum = 0;
  for (const std::string& r : expected) sum += std::stof(r);
  half.sum(view_of(&x, 1, 1));
  EXPECT_EQ(x, sum);
  // Messages to the user name the ranks of the job.
  std::string names;
  for (const std::string& r : expected) names += fmt::format("\n  rank {}: {}", r, r);
  if (half.size() > 1) {
    EXPECT_THAT(message_of([&] { half.same_everywhere(std::to_string(world().rank()), "it"); }), HasSubstr(names));
  }
  // Messages of a group and of the world do not meet, though ranks and tags are the same.
  if (half.size() < 2) return;
  int64_t a = 1 + world().rank(), b = 0, c = -1, d = 0;
  const int other = 1 - half.rank(), in_world = std::stoi(expected[size_t(other)]);
  Pending first = half.send(view_of(&a, 1, 1), other, 3), second = world().send(view_of(&c, 1, 1), in_world, 3);
  world().receive(view_of(&d, 1, 1), in_world, 3).wait();
  half.receive(view_of(&b, 1, 1), other, 3).wait();
  EXPECT_EQ(b, 1 + in_world);
  EXPECT_EQ(d, -1);
}

TEST_F(Ranks, WhatMakesNoSenseIsRefused) {
  float x[4] = {};
  const Tensor t = view_of(x, 2, 2);
  EXPECT_THAT(message_of([&] { world().send(t, world().size(), 0).wait(); }), HasSubstr("must be another rank"));
  EXPECT_THAT(message_of([&] { world().receive(t, world().rank(), 0).wait(); }), HasSubstr("must be another rank"));
  EXPECT_THAT(message_of([&] { world().send("text", -1, 0).wait(); }), HasSubstr("must be another rank"));
  EXPECT_THAT(message_of([&] { world().broadcast(t, world().size()); }), HasSubstr("a broadcast from rank"));
  int64_t count = 0;
  EXPECT_THAT(message_of([&] { world().sum(view_of(&count, 1, 1)); }), HasSubstr("a sum of i64"));
  if (world().size() == 1) return;
  EXPECT_THAT(message_of([] { Communicator::world(); }), HasSubstr("one world"));
  EXPECT_THAT(message_of([&] { world().send(t, next(), Communicator::kTags).wait(); }),
              HasSubstr("a tag must be 0 to"));
  EXPECT_THAT(message_of([&] { world().send(t, next(), -1).wait(); }), HasSubstr("a tag must be 0 to"));
  EXPECT_THAT(message_of([&] { world().send(t.col_range(0, 1), next(), 0).wait(); }), HasSubstr("contiguous"));
  EXPECT_THAT(message_of([&] { world().sum(t.col_range(0, 1)); }), HasSubstr("contiguous"));
}

std::unique_ptr<Communicator> all_ranks;

}  // namespace

Communicator& world() { return *all_ranks; }

}  // namespace tangram

int main(int argc, char** argv) {
  using namespace tangram;
  testing::InitGoogleTest(&argc, argv);
  try {
    all_ranks = std::make_unique<Communicator>(Communicator::world());
    if (argc == 3 && std::string(argv[1]) == "--misbehave") return misbehave(argv[2]);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return int(e.failure);
  }
  const int failed = RUN_ALL_TESTS();
  all_ranks.reset();
  return failed;
}
