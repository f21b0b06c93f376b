#include <fmt/format.h>
#include <gtest/gtest.h>

#include "nas/units.h"

namespace tangram {
namespace {

TEST(Units, ReadsCountsAsIntegersOnly) {
  EXPECT_EQ(parse_count("262144"), 262144);
  EXPECT_EQ(parse_count("1e9"), 1'000'000'000);
  EXPECT_EQ(parse_count("1.5e6"), 1'500'000);
  EXPECT_EQ(parse_count("9007199254740992"), int64_t{1} << 53);
  for (const char* text :
       {"", "1.5", "abc", "1e9x", " 1", "64k", "inf", "nan", "1e400", "0x10", "9007199254740994", "+1"})
    EXPECT_EQ(parse_count(text), std::nullopt) << text;
}

TEST(Units, ReadsBytesInPowersOfTenAndTwo) {
  EXPECT_EQ(parse_bytes("4096"), 4096);
  EXPECT_EQ(parse_bytes("80 GiB"), 85'899'345'920.0);
  EXPECT_EQ(parse_bytes("80GB"), 80e9);
  EXPECT_EQ(parse_bytes("512 MiB"), 536'870'912);
  EXPECT_EQ(parse_bytes("1.5 KiB"), 1536);
  for (const char* text : {"80 Gib", "80 GiB ", "GiB", "80 G"}) EXPECT_EQ(parse_bytes(text), std::nullopt) << text;
}

TEST(Units, ReadsFractionsDurationsAndLimits) {
  // Every whole percentage is the double that its decimal fraction is.
  for (int percent = 0; percent <= 100; ++percent)
    EXPECT_EQ(parse_fraction(fmt::format("{}%", percent)), std::stod(fmt::format("{}e-2", percent)));
  EXPECT_EQ(parse_seconds("250 ms"), 0.25);
  EXPECT_EQ(parse_seconds("5 min"), 300);
  EXPECT_EQ(parse_seconds("2.5"), 2.5);
  EXPECT_EQ(parse_limit("60%", parse_bytes), (Limit{0.6, true}));
  EXPECT_EQ(parse_limit("2.0x", parse_number), (Limit{2, true}));
  EXPECT_EQ(parse_limit("60 GiB", parse_bytes), (Limit{60 * 0x1p30, false}));
  EXPECT_EQ(parse_limit("60 GiB", parse_number), std::nullopt);
  EXPECT_EQ(parse_limit("x", parse_number), std::nullopt);
  EXPECT_EQ((Limit{0.6, true}).of(50), 30);
  EXPECT_EQ((Limit{60, false}).of(50), 60);
}

TEST(Units, WritesThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1023.7), "1 KiB");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(80 * 0x1p30), "80 GiB");
  EXPECT_EQ(format_count(950), "950");
  EXPECT_EQ(format_count(999.6), "1k");
  EXPECT_EQ(format_count(262144), "262k");
  EXPECT_EQ(format_count(1'588'224), "1.59M");
  EXPECT_EQ(format_count(70.6e9), "70.6G");
  EXPECT_EQ(format_seconds(25e-6), "25 us");
  EXPECT_EQ(format_seconds(0.0305), "30.5 ms");
  EXPECT_EQ(format_seconds(1.5), "1.5 s");
  EXPECT_EQ(format_seconds(59.96), "1 min 00 s");
  EXPECT_EQ(format_seconds(250), "4 min 10 s");
  EXPECT_EQ(format_seconds(7380), "2 h 03 min");
}

TEST(Units, FourDigitsAreOnTheSideThatIsAskedFor) {
  EXPECT_EQ(four_digits(12.3412, true), "12.35");
  EXPECT_EQ(four_digits(12.3412, false), "12.34");
  EXPECT_EQ(four_digits(0.00123401, true), "0.001235");
  EXPECT_EQ(four_digits(43.75, true), "43.75");
  EXPECT_EQ(four_digits(100 * 0.57, true), "57");  // the product is 56.99999999999999
  EXPECT_EQ(four_digits(100 * 0.07, true), "7");   // and this 7.000000000000001
  EXPECT_EQ(four_digits(123456.2, false), "123456");
}

TEST(Units, ReadsAmountsAsTheyAreWritten) {
  EXPECT_EQ(parse_amount("5.2k"), 5200);
  EXPECT_EQ(parse_amount("49.3G"), 49.3e9);
  EXPECT_EQ(parse_amount("2500"), 2500);
  EXPECT_FALSE(parse_amount("5.2kk"));
}

TEST(Units, ExactTextReadsBackAsTheSameDouble) {
  for (const double x : {0.1, 1.0 / 3, 1e-4, 5e-324, 1.7976931348623157e308, -2.5, 65536.0, 0x1p53, 1e22})
    EXPECT_EQ(parse_number(format_exact(x)), x) << format_exact(x);
  EXPECT_EQ(format_exact(65536), "65536");
  EXPECT_EQ(format_exact(Limit{0.6, true}), "0.6x");
}

}  // namespace
}  // namespace tangram
