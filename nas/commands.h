#pragma once
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "nas/model_verbs.h"
#include "nas/stages.h"

namespace tangram {

/// The whole command line but for the name of the program: results to `out`, messages to `err`. Returns the exit code
/// of the process: 0 done, else the value of a Failure.
int run_command_line(const std::vector<std::string>& arguments, std::span<const Stage> stages,
                     std::span<const ModelVerb> model_verbs, std::FILE* out, std::FILE* err);

}  // namespace tangram
