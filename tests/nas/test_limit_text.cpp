#include "nas/limit_text.h"

#include <gtest/gtest.h>

#include "tests/blocks/folder.h"

namespace tangram {
namespace {

void expect_constraint(const char* text, Quantity quantity, const char* scenario, double bound, bool relative) {
  const Constraint c = parse_constraint(text);
  EXPECT_EQ(c.quantity, quantity) << text;
  EXPECT_EQ(c.scenario, scenario) << text;
  EXPECT_EQ(c.bound, bound) << text;
  EXPECT_EQ(c.relative, relative) << text;
}

TEST(LimitText, NamesQuantityScenarioAndBound) {
  expect_constraint("memory=80GiB", Quantity::memory, "", 80.0 * (1 << 30), false);
  expect_constraint("memory<=60%", Quantity::memory, "", 0.6, true);
  expect_constraint("chat.throughput>=2.0x", Quantity::throughput, "chat", 2, true);
  expect_constraint("chat@64.latency<=250 ms", Quantity::latency, "chat@64", 0.25, false);
  expect_constraint("a.b.time_to_first_token=1s", Quantity::time_to_first_token, "a.b", 1, false);
  expect_constraint("parameters=49e9", Quantity::parameters, "", 49e9, false);
  expect_constraint("parameters=49.3G", Quantity::parameters, "", 49.3e9, false);
  expect_constraint("throughput>=5.2k", Quantity::throughput, "", 5200, false);
  expect_constraint("latency <= 0.3 s", Quantity::latency, "", 0.3, false);
  expect_constraint(" chat.memory =  60 % ", Quantity::memory, "chat", 0.6, true);
}

TEST(LimitText, SaysWhatIsWrong) {
  const auto refused = [](const char* text) { return message_of([&] { parse_constraint(text); }); };
  EXPECT_EQ(refused("memory"),
            "limit 'memory': write a quantity and its bound, such as memory=80GiB or chat.throughput>=5000");
  EXPECT_EQ(refused("memori=3GiB"),
            "no quantity 'memori'; did you mean 'memory'? known: memory, parameters, throughput, latency, "
            "time_to_first_token, time_per_output_token, kv_cache");
  EXPECT_EQ(refused("memory>=3GiB"),
            "limit 'memory>=3GiB': memory has an upper limit; write memory<=3GiB or memory=3GiB");
  EXPECT_EQ(refused("throughput<=3"),
            "limit 'throughput<=3': throughput has a lower limit; write throughput>=3 or throughput=3");
  EXPECT_EQ(
      refused("latency=fast"),
      "limit 'latency=fast': found 'fast'; allowed: a duration such as 3 s or 250 ms, or of the teacher's such as "
      "60% or 0.6x");
  EXPECT_EQ(refused("memory="),
            "limit 'memory=': found ''; allowed: bytes such as 60 GiB, or of the teacher's such as 60% or 0.6x");
  EXPECT_NE(refused("memory=-3GiB"), "");
}

}  // namespace
}  // namespace tangram
