#pragma once
#include "nas/config.h"

namespace tangram {

/// `place: key: message` for what only a look at several keys can tell.
template <class... Args>
Error impossible(const SearchConfig& c, std::string_view key, fmt::format_string<Args...> format, Args&&... args) {
  return bad_input("{}: {}: {}", place_of(c, key), key, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error (bad_input) with place and key for values that are impossible together; fills in what a teacher that is
/// to be trained leaves open.
void check_config(SearchConfig& config);

/// Throws Error (bad_input) with place and key of a variant, or a rule on variants or layers, that is not in the search
/// space of this teacher.
void check_choices(const SearchConfig& config, const ModelConfig& teacher);

}  // namespace tangram
