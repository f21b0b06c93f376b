#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "nas/config.h"
#include "puzzle/hardware.h"

namespace tangram {

/// The descriptions that come with Tangram, configs/hardware/<name>.yaml, by name. They are part of the program.
std::vector<std::string> known_hardware_names();

/// One of them. Throws Error (bad_input) naming them for another.
Hardware known_hardware(const std::string& name);

/// What the key `hardware` of a search config takes: `this`, and the names.
std::vector<std::string> hardware_choices();

/// Reads and checks a description. Throws Error (bad_input) naming file, line, key, what was found and what is allowed.
Hardware parse_hardware(std::string_view text, const std::string& source, const std::string& name);
Hardware read_hardware(const std::filesystem::path& path);

/// The description as YAML that parse_hardware reads back, behind comment lines that begin with `remark`.
std::string write_hardware(const Hardware& hardware, const std::string& remark);

/// What a command line calls a description: a known name, or the path of a .yaml file.
Hardware named_hardware(const std::string& text);

/// The description that a config names; not for this machine.
Hardware hardware_of(const HardwareConfig& config);

/// Its name and a digest of all its numbers: what costs in a score table say they are modelled from.
std::string source_name(const Hardware& hardware);

}  // namespace tangram
