#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "blocks/architecture.h"

namespace tangram {

/// One block of a student by name, as Choice::name.
struct ChosenBlock {
  std::string attention, ffn;
  int64_t layers = 1;      ///< of the teacher's that it stands for
  bool together = false;   ///< a pair or span, trained and scored as one
  std::string where = {};  ///< its place in a file, for messages
  bool teacher = false;    ///< wholly the teacher's own; not written, and so known of a student that was just found
};

/// A student that a search chose, as `architectures/<name>.yaml` keeps it: which blocks it has, and what was predicted
/// of it. It needs no model to be written or read.
struct ChosenArchitecture {
  std::string name;       ///< `<target>`, `<target>-2`, `<target>-greedy`, `<target>-random-3`
  std::string target;     ///< the constraint set it was made for
  std::string method;     ///< mip, mip_in_context, greedy, uniform, largest_parameter, random, nearest
  std::string objective;  ///< the metric that was searched by
  bool proven = false;    ///< nothing better exists under the additive model
  std::vector<std::string> scenarios = {};  ///< that its limits were counted in: the batch sizes that were chosen
  std::vector<std::string> servable = {};   ///< servers that had to run it, see blocks/servers.h
  std::map<std::string, double> predicted;  ///< figures of the whole model, such as memory and kl_divergence
  std::vector<ChosenBlock> blocks;          ///< in order
};

/// Whether `uptrain` heals it: the best student of its target. The others are there for comparison.
inline bool is_healed(const ChosenArchitecture& architecture) { return architecture.name == architecture.target; }

std::string architecture_yaml(const ChosenArchitecture& architecture);
/// The same as a file, replaced atomically.
void write_architecture(const std::filesystem::path& path, const ChosenArchitecture& architecture);

/// Throws Error (bad_input) with the place of what is missing or malformed. `name` stands for the text in messages.
ChosenArchitecture parse_architecture(std::string_view yaml, const std::string& name);
ChosenArchitecture read_architecture(const std::filesystem::path& path);

/// All architectures of a folder, by name.
std::vector<ChosenArchitecture> read_architectures(const std::filesystem::path& folder);

/// For each block the last of the teacher's layers that it stands for, ascending.
std::vector<int64_t> last_layers(const ChosenArchitecture& architecture);

/// What makes the student of a teacher: entries of its library that together fill every subblock once, the teacher's
/// own among them. Throws Error (bad_input) naming a block that this teacher does not have, or another number of
/// layers.
std::vector<Replacement> replacements_of(const ChosenArchitecture& architecture, const ModelConfig& teacher);

/// The blocks of the student of a teacher. Throws as replacements_of does.
Architecture blocks_of(const ChosenArchitecture& architecture, const ModelConfig& teacher);

}  // namespace tangram
