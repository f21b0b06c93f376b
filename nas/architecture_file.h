#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "blocks/architecture.h"

namespace tangram {

/// A student that a search chose, as `architectures/<name>.yaml` keeps it: which replacement stands where, and what was
/// predicted of it.
struct ChosenArchitecture {
  std::string name;                         ///< `<target>`, `<target>-2`, `<target>-greedy`, `<target>-random-3`
  std::string target;                       ///< the constraint set it was made for
  std::string method;                       ///< mip, greedy, uniform, largest_parameter, random
  std::string objective;                    ///< the metric that was searched by
  bool proven = false;                      ///< nothing better exists under the additive model
  std::map<std::string, double> predicted;  ///< figures of the whole model, such as memory and kl_divergence
  std::vector<Replacement> replacements;    ///< what differs from the teacher or not: together they fill every slot
};

/// Whether `uptrain` heals it: the best student of its target. The others are there for comparison.
inline bool is_healed(const ChosenArchitecture& architecture) { return architecture.name == architecture.target; }

std::string architecture_yaml(const ChosenArchitecture& architecture);
/// The same as a file, replaced atomically.
void write_architecture(const std::filesystem::path& path, const ChosenArchitecture& architecture);

/// Throws Error (bad_input) with the place unless every subblock of every layer is named exactly once. `name` stands
/// for the text in messages.
ChosenArchitecture parse_architecture(std::string_view yaml, const std::string& name, const ModelConfig& teacher);
ChosenArchitecture read_architecture(const std::filesystem::path& path, const ModelConfig& teacher);

/// All architectures of a folder, by name.
std::vector<ChosenArchitecture> read_architectures(const std::filesystem::path& folder, const ModelConfig& teacher);

/// For each block the last of the teacher's layers that it stands for, ascending.
std::vector<int64_t> last_layers(const ChosenArchitecture& architecture);

/// The blocks that the replacements make.
Architecture blocks_of(const ChosenArchitecture& architecture);

}  // namespace tangram
