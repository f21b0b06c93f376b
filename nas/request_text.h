#pragma once
#include "nas/architecture_file.h"
#include "nas/config.h"

namespace tangram {

/// What a config asks of one student, beside what the search found: every limit, in the batch sizes that were chosen,
/// rules, variants, batch sizes, and the frontier that lies beside. Several lines.
std::string request_text(const SearchConfig& config, const TargetConfig& target, const ChosenArchitecture& student,
                         const ScoreTable& table);

}  // namespace tangram
