#pragma once
#include <functional>
#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "tests/blocks/folder.h"

namespace tangram {

/// A safetensors file of a header and data; `length` is what it says of the header's, -1: the truth.
inline std::string file_of(std::string_view header, std::string_view data, int64_t length = -1) {
  const uint64_t n = length < 0 ? header.size() : uint64_t(length);
  std::string file(reinterpret_cast<const char*>(&n), sizeof n);
  return file.append(header).append(data);
}

inline void change_text(const std::filesystem::path& path, const std::function<void(std::string&)>& change) {
  std::string text = read_text_file(path, 1 << 20);
  change(text);
  write_text(path, text);
}

inline void change_json(const std::filesystem::path& path, const std::function<void(nlohmann::json&)>& change) {
  change_text(path, [&](std::string& text) {
    nlohmann::json value = nlohmann::json::parse(text);
    change(value);
    text = value.dump();
  });
}

/// Changes the text of a safetensors file's header, and leaves its data.
inline void change_header_text(const std::filesystem::path& path, const std::function<void(std::string&)>& change) {
  change_text(path, [&](std::string& file) {
    uint64_t length;
    std::memcpy(&length, file.data(), sizeof length);
    std::string header = file.substr(sizeof length, length);
    change(header);
    file = file_of(header, std::string_view(file).substr(sizeof length + length));
  });
}

inline void change_header(const std::filesystem::path& path, const std::function<void(nlohmann::json&)>& change) {
  change_header_text(path, [&](std::string& header) {
    nlohmann::json value = nlohmann::json::parse(header);
    change(value);
    header = value.dump();
  });
}

}  // namespace tangram
