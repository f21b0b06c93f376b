#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "nas/commands.h"

namespace tangram {

/// A stream that keeps what is written to it.
struct Capture {
  char* data = nullptr;
  size_t size = 0;
  std::FILE* file = open_memstream(&data, &size);
  Capture() = default;
  ~Capture() {
    std::fclose(file);
    std::free(data);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  std::string text() {
    std::fflush(file);
    return std::string(data, size);
  }
};

/// What became of a command: its exit code, and what it printed.
struct Outcome {
  int code;
  std::string out, err;
};

/// Runs `tangram ARGUMENTS` in this process.
inline Outcome call_with(const std::vector<std::string>& arguments, std::span<const Stage> stages,
                         std::span<const ModelVerb> verbs) {
  Capture out, err;
  const int code = run_command_line(arguments, stages, verbs, out.file, err.file);
  return {code, out.text(), err.text()};
}

}  // namespace tangram
