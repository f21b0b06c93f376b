#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <thread>

#include "kernels/context.h"
#include "tests/kernels/test_ranks.h"

namespace tangram {
namespace {

using namespace std::chrono_literals;

template <class T>
std::vector<T> values(int rank, int64_t count) {
  std::vector<T> x;
  for (int64_t i = 0; i < count; ++i) x.push_back(T(rank_value(rank, i)));
  return x;
}

template <class T>
Tensor view(std::vector<T>& x) {
  return view_of(x.data(), 1, int64_t(x.size()));
}

/// The sum of all ranks' values, added here.
template <class T>
std::vector<T> expected_sum(int64_t count) {
  std::vector<std::vector<T>> all;
  std::vector<Tensor> parts;
  for (int r = 0; r < world().size(); ++r) all.push_back(values<T>(r, count));
  for (auto& x : all) parts.push_back(view(x));
  std::vector<T> sum(static_cast<size_t>(count));
  tree_sum(view(sum), parts);
  return sum;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Nothing, less than a slice for each rank, odd sizes, and several buckets.
const std::vector<int64_t> kCounts = {0, 1, 15, 16, 17, 33, 1000, 65'537, 3'000'001};

float tree(std::vector<float> leaves) {
  std::vector<Tensor> parts;
  for (float& x : leaves) parts.push_back(view_of(&x, 1, 1));
  float sum = 0;
  tree_sum(view_of(&sum, 1, 1), parts);
  return sum;
}

TEST(TreeSum, AddsInTheStatedOrder) {
  const float big = 0x1p24f;  // big + 1 = big
  EXPECT_EQ(tree({3}), 3);
  EXPECT_EQ(tree({big, 1, 1}), (big + 1) + 1);
  EXPECT_EQ(tree({1, 1, big}), (1 + 1) + big);
  EXPECT_EQ(tree({big, 1, 1, 1}), (big + 1) + (1 + 1));
  EXPECT_EQ(tree({1, 1, big, 1, 1}), ((1.f + 1) + (big + 1)) + 1);
  EXPECT_EQ(tree({1, 1, big, 1, 1, 1}), ((1.f + 1) + (big + 1)) + (1 + 1));
  EXPECT_EQ(tree({big, 1, 1, 1, 1, -big}), 3);  // in halves of three it would be 2, from left to right 0
  std::vector<float> x(7, 1), one = {-0.f};
  EXPECT_EQ(tree(x), 7);
  EXPECT_TRUE(std::signbit(tree(one)));
}

TEST(TreeSum, NeighboursCanBeAddedBefore) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int ranks = 1; ranks <= 9; ++ranks)
    for (int own = 1; own <= 8; own *= 2)
      for (int repeat = 0; repeat < 20; ++repeat) {
        std::vector<float> all, of_ranks;
        for (int r = 0; r < ranks; ++r) {
          std::vector<float> mine;
          for (int i = 0; i < own; ++i) mine.push_back(normal(random));
          all.insert(all.end(), mine.begin(), mine.end());
          of_ranks.push_back(tree(mine));
        }
        ASSERT_EQ(tree(all), tree(of_ranks)) << ranks << " x " << own;
      }
}

TEST(TreeSum, MayGoIntoAnyOfItsParts) {
  for (size_t into = 0; into < 5; ++into) {
    std::vector<std::vector<float>> all;
    std::vector<Tensor> parts;
    for (int r = 0; r < 5; ++r) all.push_back(values<float>(r, 2500));
    for (auto& x : all) parts.push_back(view(x));
    std::vector<float> sum(2500);
    tree_sum(view(sum), parts);
    Context ctx({.threads = 2});
    if (into % 2 == 0)
      tree_sum(parts[into], parts, ctx);
    else
      tree_sum(parts[into], parts);
    EXPECT_EQ(all[into], sum);
  }
}

TEST(Sum, IsTheTreeSumOfTheRanksBitForBit) {
  for (const int64_t count : kCounts) {
    std::vector<float> x = values<float>(world().rank(), count);
    world().sum(view(x));
    ASSERT_TRUE(same_bits(x, expected_sum<float>(count))) << count;
    for (int64_t i = 0; i < count; ++i) {
      double exact = 0, magnitude = 0;
      for (int r = 0; r < world().size(); ++r) exact += rank_value(r, i), magnitude += std::abs(rank_value(r, i));
      ASSERT_NEAR(x[size_t(i)], exact, std::ceil(std::log2(world().size())) * 0x1p-24 * magnitude) << i;
    }
  }
}

TEST(Sum, RoundsBf16Once) {
  for (const int64_t count : kCounts) {
    std::vector<bf16> x = values<bf16>(world().rank(), count);
    world().sum(view(x));
    ASSERT_TRUE(same_bits(x, expected_sum<bf16>(count))) << count;
    for (int64_t i = 0; i < count; ++i) {
      double exact = 0;
      for (int r = 0; r < world().size(); ++r) exact += float(bf16(rank_value(r, i)));
      ASSERT_NEAR(float(x[size_t(i)]), exact, 0x1p-8 * std::abs(exact) + 0x1p-20) << i;
    }
  }
}

TEST(Sum, SeveralMayBeUnderWay) {
  std::vector<std::vector<float>> x;
  std::vector<Pending> pending;
  for (const int64_t count : kCounts) x.push_back(values<float>(world().rank(), count));
  for (auto& one : x) {
    pending.push_back(world().start_sum(view(one)));
    std::this_thread::sleep_for(world().rank() * 2ms);  // so that the rounds of two sums begin in different orders
  }
  while (!pending.empty()) pending.back().wait(), pending.pop_back();
  for (size_t i = 0; i < x.size(); ++i) EXPECT_TRUE(same_bits(x[i], expected_sum<float>(kCounts[i]))) << kCounts[i];
}

TEST(Sum, HasTwoHalves) {
  for (const int64_t count : kCounts) {
    std::vector<float> x = values<float>(world().rank(), count);
    const std::vector<float> expected = expected_sum<float>(count);
    int64_t elements = 0;
    for (int r = 0; r < world().size(); ++r) {
      const Slice slice = world().slice(count, r);
      ASSERT_EQ(slice.first, elements);
      elements += slice.count;
    }
    ASSERT_EQ(elements, count);
    world().start_reduce_scatter(view(x)).wait();
    const Slice own = world().slice(count, world().rank());
    for (int64_t i = 0; i < count; ++i) {
      if (i >= own.first && i < own.first + own.count)
        ASSERT_EQ(x[size_t(i)], expected[size_t(i)]) << i;
      else
        x[size_t(i)] = NAN;
    }
    world().start_all_gather(view(x)).wait();
    ASSERT_TRUE(same_bits(x, expected)) << count;
  }
}

}  // namespace
}  // namespace tangram
