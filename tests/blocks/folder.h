#pragma once
#include <stdlib.h>  // mkdtemp

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "kernels/error.h"

namespace tangram {

/// An empty folder of a test's own, removed with everything in it.
struct TestFolder {
  std::filesystem::path path;

  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tangram-test-XXXXXX").string();
    CHECK(mkdtemp(name.data()), "{} cannot be created", name);
    path = name;
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
};

inline void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  CHECK(file.good(), "{} cannot be written", path.string());
}

/// The folder of real inputs, which may be missing.
inline std::filesystem::path test_data() {
  const char* place = std::getenv("TANGRAM_TEST_DATA");
  return place ? place : TANGRAM_SOURCE_DIR "/../shared/data";
}

/// What the Error says that f throws; empty if it throws none.
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace tangram
