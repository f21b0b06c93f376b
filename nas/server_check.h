#pragma once
#include <span>
#include <string>

#include "blocks/servers.h"
#include "nas/config.h"
#include "nas/model_verbs.h"

namespace tangram {

/// A model by its blocks alone.
struct ModelForm {
  std::string name;  ///< of a run's student; empty: the only model that is asked about
  Architecture architecture;
  ModelConfig config;
};

/// Prints what each server makes of each model. False if one of the servers cannot run one of the models.
bool print_servers(std::span<const ModelForm> models, std::span<const Server* const> servers, const VerbInput& input);

/// print_servers of the students in a run's architectures/, but for a nearest one, which nothing goes on from. Throws
/// Error: bad_input if there is none yet, infeasible if one of the servers cannot run one of them.
void check_students(const SearchConfig& config, std::span<const Server* const> servers, const VerbInput& input);

}  // namespace tangram
