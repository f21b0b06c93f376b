#include "puzzle/odd_times.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/small_model.h"

namespace tangram {
namespace {

using testing::ElementsAre;

const Scenario kLoad{.name = "s", .input_tokens = 16, .output_tokens = 11, .concurrency = 2};

PartTime attention(const char* name, double prefill, double decode) {
  return {parse_choice(Subblock::attention, name, small_config()), {prefill, decode}};
}
PartTime ffn(const char* name, double prefill, double decode) {
  return {parse_choice(Subblock::ffn, name, small_config()), {prefill, decode}};
}

std::vector<std::string> odd_ones(const std::vector<PartTime>& parts) {
  std::vector<std::string> names;
  for (const OddTime& odd : odd_times(parts, small_config(), kLoad))
    names.push_back(fmt::format("{} of {} beside {}", odd.is_decode ? "decode" : "prefill",
                                parts[odd.part].choice.name(), parts[odd.beside].choice.name()));
  return names;
}

TEST(OddTimes, NoneWhereTimesGrowWithWork) {
  EXPECT_THAT(odd_ones({ffn("ffn_12", 1, 5), ffn("ffn_24", 1.2, 4.5), ffn("ffn_48", 3.5, 13), ffn("linear", 0.5, 3),
                        ffn("no_op", 0, 0), attention("gqa_1", 2, 2), attention("gqa_2", 2.5, 1.9),
                        attention("linear", 0.1, 0.1), attention("window_4", 1, 1)}),
              ElementsAre());
}

TEST(OddTimes, ANarrowOneThatTakesLongerThanAWideOne) {
  EXPECT_THAT(odd_ones({ffn("ffn_12", 1, 1.5), ffn("ffn_24", 1.2, 1.1)}),
              ElementsAre("decode of ffn_12 beside ffn_24"));
  EXPECT_THAT(odd_ones({ffn("ffn_12", 100, 1), ffn("ffn_24", 1.2, 1.1)}),
              ElementsAre("prefill of ffn_12 beside ffn_24"));
}

// Twice the width may take six times as long, and no more.
TEST(OddTimes, AWideOneThatTakesFarLongerThanItsWidthExplains) {
  EXPECT_THAT(odd_ones({ffn("ffn_24", 1, 1), ffn("ffn_48", 5.9, 1.5)}), ElementsAre());
  EXPECT_THAT(odd_ones({ffn("ffn_24", 1, 1), ffn("ffn_48", 6.1, 1.5)}), ElementsAre("prefill of ffn_48 beside ffn_24"));
}

TEST(OddTimes, AnotherVariantWithLessOfEverythingThatTakesFarLonger) {
  EXPECT_THAT(odd_ones({attention("gqa_2", 1, 1), attention("linear", 2.9, 3.1)}),
              ElementsAre("decode of linear beside gqa_2"));
  EXPECT_THAT(odd_ones({attention("gqa_2", 30, 1), attention("linear", 1, 1)}), ElementsAre()) << "it has more to do";
}

// 10 steps of a decode may take 50 us of starts.
TEST(OddTimes, StartsOfKernelsMayDiffer) {
  EXPECT_THAT(odd_ones({ffn("ffn_12", 1, 60e-6), ffn("ffn_24", 1, 10e-6)}), ElementsAre());
  EXPECT_THAT(odd_ones({ffn("ffn_12", 1, 70e-6), ffn("ffn_24", 1, 10e-6)}),
              ElementsAre("decode of ffn_12 beside ffn_24"));
}

}  // namespace
}  // namespace tangram
