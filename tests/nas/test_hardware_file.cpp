#include "nas/hardware_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tangram {
namespace {

using testing::HasSubstr;

constexpr const char* kText = R"(memory: 80 GB
reserved: 1 GB
memory_bandwidth: 3e12
flops: {f32: 60e12, bf16: 900e12}
link: {bandwidth: 450e9, latency: 15 us}
overhead: {launch: 3 us, step: 1 ms}
efficiency:
  matmul_compute: {value: 0.6, error: 15%}
  attention_decode: {value: 0.5}
residual: 10%
)";

std::string message_of(const std::string& from, const std::string& to) {
  std::string text = kText;
  text.replace(text.find(from), from.size(), to);
  try {
    parse_hardware(text, "x.yaml", "x");
  } catch (const Error& e) {
    EXPECT_EQ(e.failure, Failure::bad_input);
    return e.what();
  }
  return "no error";
}

TEST(HardwareFile, ReadsEveryKey) {
  const Hardware h = parse_hardware(kText, "x.yaml", "x");
  EXPECT_EQ(h.memory_bytes, 80e9);
  EXPECT_EQ(h.reserved_bytes, 1e9);
  EXPECT_EQ(h.memory_bandwidth, 3e12);
  EXPECT_EQ(h.peak(Precision::f32), 60e12);
  EXPECT_EQ(h.peak(Precision::f16), 900e12);
  EXPECT_THROW(h.peak(Precision::fp8), Error);
  EXPECT_EQ(h.link_seconds, 15e-6);
  EXPECT_EQ(h.launch_seconds, 3e-6);
  EXPECT_EQ(h.step_seconds, 1e-3);
  EXPECT_EQ(h.of(Term::matmul_compute).value, 0.6);
  EXPECT_EQ(h.of(Term::matmul_compute).error, 0.15);
  EXPECT_EQ(h.of(Term::attention_decode).error, 0);
  EXPECT_EQ(h.of(Term::elementwise).value, 1);
  EXPECT_EQ(h.residual, 0.1);
}

TEST(HardwareFile, WrittenDescriptionReadsBack) {
  const Hardware h = parse_hardware(kText, "x.yaml", "x");
  const std::string written = write_hardware(h, "# remark\n");
  EXPECT_THAT(written, HasSubstr("# remark\nmemory: 80000000000\n"));
  EXPECT_EQ(write_hardware(parse_hardware(written, "y.yaml", "x"), "# remark\n"), written);
  EXPECT_EQ(source_name(h), source_name(parse_hardware(written, "y.yaml", "x")));
  Hardware other = h;
  other.of(Term::all_reduce).value = 0.9;
  EXPECT_NE(source_name(h), source_name(other));
}

TEST(HardwareFile, RefusesWhatIsWrong) {
  EXPECT_THAT(message_of("memory: 80 GB", "memory: much"),
              HasSubstr("x.yaml:1:9: memory: found 'much'; allowed: bytes"));
  EXPECT_THAT(message_of("memory_bandwidth: 3e12\n", ""), HasSubstr("memory_bandwidth is missing"));
  EXPECT_THAT(message_of("reserved: 1 GB", "reserved: 90 GB"), HasSubstr("reserved: 90000000000 bytes"));
  EXPECT_THAT(message_of("{f32: 60e12, bf16: 900e12}", "{f32: 0}"), HasSubstr("no rate"));
  EXPECT_THAT(message_of("attention_decode", "attention_decoding"), HasSubstr("did you mean 'attention_decode'"));
  EXPECT_THAT(message_of("value: 0.6", "value: 0"), HasSubstr("above 0"));
}

// Every file of configs/hardware is in the program, well-formed, and has what its name says.
TEST(HardwareFile, KnownDescriptionsAreComplete) {
  EXPECT_THAT(known_hardware_names(),
              testing::UnorderedElementsAre("a100-80gb", "b200", "cpu", "h100-80gb", "h200", "rtx-4090"));
  for (const std::string& name : known_hardware_names()) {
    const Hardware h = known_hardware(name);
    EXPECT_EQ(h.name, name);
    for (const double rate : {h.memory_bytes, h.memory_bandwidth, h.flops[0], h.flops[1]}) EXPECT_GT(rate, 0) << name;
    for (size_t t = 0; t < kTermCount; ++t) EXPECT_GE(1, h.efficiency[t].value) << name;
    EXPECT_EQ(source_name(h), source_name(read_hardware(std::filesystem::path(TANGRAM_SOURCE_DIR) / "configs/hardware" /
                                                        (name + ".yaml"))));
  }
  EXPECT_THAT([] { known_hardware("h200 "); }, testing::ThrowsMessage<Error>(HasSubstr("did you mean 'h200'")));
}

}  // namespace
}  // namespace tangram
