#include "nas/hardware_file.h"

#include <algorithm>

#include "blocks/file.h"

#include "nas/config_reader.h"
#include "nas/config_writer.h"
#include "nas/digest.h"

namespace tangram {

struct KnownHardware {
  const char *name, *yaml;
};
static constexpr KnownHardware kKnown[] = {
#include "nas/hardware.inc"  // written by CMake: the files of configs/hardware
};

// describe(visitor, struct) names the keys once, for ConfigReader and ConfigWriter.

struct Rates {
  double f32, bf16, fp8;
};

template <class V>
static void describe(V& v, Rates& r) {
  v.number("f32", r.f32, at_least(0));
  v.number("bf16", r.bf16, at_least(0));
  v.number("fp8", r.fp8, at_least(0));
}

template <class V>
static void describe(V& v, Efficiency& e) {
  v.require("value");
  v.number("value", e.value, {.low = 0, .high = 1e6, .above_low = true});
  v.fraction("error", e.error, within(0, 10));
}

struct Efficiencies {
  std::array<Efficiency, kTermCount>& of;
};

template <class V>
static void describe(V& v, Efficiencies& e) {
  for (size_t t = 0; t < kTermCount; ++t) v.section(kTermNames[t], e.of[t]);
}

struct Link {
  double &bandwidth, &seconds;
};

template <class V>
static void describe(V& v, Link& l) {
  v.number("bandwidth", l.bandwidth, at_least(0));
  v.seconds("latency", l.seconds, within(0, 1));
}

struct Overhead {
  double &launch, &step;
};

template <class V>
static void describe(V& v, Overhead& o) {
  v.seconds("launch", o.launch, within(0, 1));
  v.seconds("step", o.step, within(0, 10));
}

template <class V>
static void describe(V& v, Hardware& h) {
  for (const char* key : {"memory", "memory_bandwidth", "flops", "efficiency"}) v.require(key);
  v.bytes("memory", h.memory_bytes, above(0));
  v.bytes("reserved", h.reserved_bytes, at_least(0));
  v.number("memory_bandwidth", h.memory_bandwidth, above(0));
  Rates rates{h.flops[0], h.flops[1], h.flops[2]};
  v.section("flops", rates);
  h.flops = {rates.f32, rates.bf16, rates.fp8};
  Link link{h.link_bandwidth, h.link_seconds};
  v.section("link", link);
  Overhead overhead{h.launch_seconds, h.step_seconds};
  v.section("overhead", overhead);
  v.count("prefill_tokens", h.prefill_tokens, within(1, 1 << 20));
  Efficiencies efficiencies{h.efficiency};
  v.section("efficiency", efficiencies);
  v.fraction("residual", h.residual, within(0, 10));
}

std::vector<std::string> known_hardware_names() {
  std::vector<std::string> names;
  for (const KnownHardware& known : kKnown) names.emplace_back(known.name);
  return names;
}

std::vector<std::string> hardware_choices() {
  std::vector<std::string> names = known_hardware_names();
  names.insert(names.begin(), "this");
  return names;
}

Hardware known_hardware(const std::string& name) {
  for (const KnownHardware& known : kKnown)
    if (name == known.name) return parse_hardware(known.yaml, fmt::format("configs/hardware/{}.yaml", name), name);
  throw unknown_name("hardware", name, known_hardware_names());
}

Hardware parse_hardware(std::string_view text, const std::string& source, const std::string& name) {
  const YamlNode node = parse_yaml(text, source);
  Hardware hardware;
  hardware.name = name;
  ConfigReader reader(node, "", "");
  describe(reader, hardware);
  reader.finish();
  if (hardware.reserved_bytes >= hardware.memory_bytes)
    throw bad_input("{}: reserved: {} bytes of a memory of {}", source, hardware.reserved_bytes, hardware.memory_bytes);
  if (std::all_of(hardware.flops.begin(), hardware.flops.end(), [](double f) { return f == 0; }))
    throw bad_input("{}: flops: no rate; give at least one of f32, bf16, fp8", source);
  return hardware;
}

Hardware read_hardware(const std::filesystem::path& path) {
  return parse_hardware(read_text_file(path, kMaxYamlBytes), path.string(), path.stem().string());
}

std::string write_hardware(const Hardware& hardware, const std::string& remark) {
  ConfigWriter writer([](const std::filesystem::path& p) { return p.string(); });
  describe(writer, const_cast<Hardware&>(hardware));  // a writer only looks
  return remark + writer.yaml;
}

Hardware named_hardware(const std::string& text) {
  return text.find('/') != std::string::npos || text.ends_with(".yaml") ? read_hardware(text) : known_hardware(text);
}

Hardware hardware_of(const HardwareConfig& config) {
  CHECK(!config.is_this(), "this machine has no description");
  return config.file.empty() ? known_hardware(config.name) : read_hardware(config.file);
}

std::string source_name(const Hardware& hardware) {
  Digest digest;
  digest.add(write_hardware(hardware, ""));
  return fmt::format("{} {}", hardware.name, digest.text());
}

}  // namespace tangram
