#include "blocks/json.h"

#include <unordered_set>
#include <vector>

#include "kernels/error.h"

namespace tangram {

nlohmann::json parse_json(std::string_view text, const std::string& name, int max_depth) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::unordered_set<std::string>> open_objects;  // the keys of each so far
  const auto check = [&](int depth, Event event, nlohmann::json& value) {
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= max_depth) throw bad_input("{}: nested deeper than {} levels", name, max_depth);
    }
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key && !open_objects.back().insert(value.get<std::string>()).second)
      throw bad_input("{}: the key '{:.100}' stands there twice", name, value.get<std::string>());
    return true;
  };
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::exception& e) {
    const std::string_view what = e.what();
    throw bad_input("{}: {:.300}", name, what.substr(what.find("] ") + 2));  // after the library's number of the error
  }
}

}  // namespace tangram
