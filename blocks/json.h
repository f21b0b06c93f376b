#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tangram {

/// JSON from outside. Throws Error (bad_input) that begins with `name` if it is none, is not UTF-8, has a key twice in
/// one object, or nests deeper than `max_depth` arrays and objects.
nlohmann::json parse_json(std::string_view text, const std::string& name, int max_depth);

}  // namespace tangram
