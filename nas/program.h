#pragma once
#include <string>
#include <vector>

namespace tangram {

/// What another program did: its exit code (127: there is no such program; 128 + n: killed by signal n) and output.
struct ProgramOutcome {
  int code = 0;
  std::string out, err;
};

/// Runs `arguments[0]`, from the PATH, with these arguments, which no shell sees; kills it after `seconds`.
ProgramOutcome run_program(const std::vector<std::string>& arguments, double seconds = 60);

/// An argument as a POSIX shell reads it back: bare where that is safe, else in single quotes.
std::string shell_quoted(const std::string& argument);
std::string shell_quoted(const std::vector<std::string>& arguments);

}  // namespace tangram
