#pragma once
#include "nas/stages.h"

namespace tangram {

/// How many processes a stage's job asks for, of `most` that it may have: those that its plan gives work to. Distill
/// gets as many as make its step shortest, or all of them where the user has `asked` for that number: then Error
/// (bad_input) is thrown, before the job has waited for its turn, if they are more than there is work.
int64_t ranks_of_stage(const Stage& stage, const SearchConfig& config, const ModelConfig& teacher, int64_t most,
                       bool asked);

}  // namespace tangram
