#include "nas/architecture_file.h"

#include <algorithm>

#include "blocks/file.h"
#include "nas/units.h"
#include "nas/yaml.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kTogether = "together", kApart = "apart";
constexpr int64_t kMostLayers = 1024;

const YamlNode& need(const YamlNode& map, std::string_view key) {
  const YamlEntry* entry = map.kind == YamlNode::Kind::map ? map.find(key) : nullptr;
  if (!entry) throw bad_input("{}: no key '{}'", map.where, key);
  return entry->value;
}

std::string text_of(const YamlNode& map, std::string_view key) {
  const YamlNode& node = need(map, key);
  if (node.kind != YamlNode::Kind::scalar)
    throw bad_input("{}: {}: found {}; must be a text", node.where, key, describe_found(node));
  return node.scalar;
}

bool flag_of(const YamlNode& map, std::string_view key) {
  const YamlNode& node = need(map, key);
  if (node.scalar != "true" && node.scalar != "false")
    throw bad_input("{}: {}: found {}; must be true or false", node.where, key, describe_found(node));
  return node.scalar == "true";
}

// The layers that a block stands for: 1 unless it says more.
int64_t layers_of(const YamlNode& block) {
  const YamlEntry* entry = block.find("layers");
  if (!entry) return 1;
  const auto value = parse_count(entry->value.scalar);
  if (!value || *value < 1 || *value > kMostLayers)
    throw bad_input("{}: layers: found {}; must be a whole number from 1 to {}", entry->value.where,
                    describe_found(entry->value), kMostLayers);
  return *value;
}

ChosenBlock block_of(const YamlNode& node) {
  ChosenBlock block{.attention = text_of(node, name_of(Subblock::attention)),
                    .ffn = text_of(node, name_of(Subblock::ffn)),
                    .layers = layers_of(node),
                    .where = node.where};
  const std::string trained = text_of(node, "trained");
  block.together = trained == kTogether;
  if (block.together || (trained == kApart && block.layers == 1)) return block;
  throw bad_input("{}: trained: found '{}'; must be {}", node.where, trained,
                  block.layers == 1 ? fmt::format("{} or {}", kTogether, kApart)
                                    : fmt::format("{} for a block of {} layers", kTogether, block.layers));
}

}  // namespace

std::string architecture_yaml(const ChosenArchitecture& a) {
  std::string yaml = fmt::format("name: {}\ntarget: {}\nmethod: {}\nobjective: {}\nproven: {}\n", yaml_scalar(a.name),
                                 yaml_scalar(a.target), yaml_scalar(a.method), yaml_scalar(a.objective), a.proven);
  if (!a.scenarios.empty()) {
    yaml += "scenarios:\n";
    for (const std::string& scenario : a.scenarios) yaml += fmt::format("  - {}\n", yaml_scalar(scenario));
  }
  if (!a.servable.empty()) {
    yaml += "servable:\n";
    for (const std::string& server : a.servable) yaml += fmt::format("  - {}\n", yaml_scalar(server));
  }
  yaml += "predicted:\n";
  for (const auto& [figure, value] : a.predicted)
    yaml += fmt::format("  {}: {}\n", yaml_scalar(figure), format_exact(value));
  yaml += "blocks:\n";
  for (const ChosenBlock& block : a.blocks)
    yaml += fmt::format("  - {{attention: {}, ffn: {}, trained: {}{}}}\n", yaml_scalar(block.attention),
                        yaml_scalar(block.ffn), block.together ? kTogether : kApart,
                        block.layers > 1 ? fmt::format(", layers: {}", block.layers) : "");
  return yaml;
}

void write_architecture(const fs::path& path, const ChosenArchitecture& a) {
  fs::create_directories(path.parent_path());
  write_file_atomically(path, architecture_yaml(a));
}

static ChosenArchitecture architecture_of(const YamlNode& root) {
  ChosenArchitecture a;
  a.name = text_of(root, "name"), a.target = text_of(root, "target"), a.method = text_of(root, "method");
  a.objective = text_of(root, "objective"), a.proven = flag_of(root, "proven");
  if (const YamlEntry* scenarios = root.find("scenarios"))
    for (const YamlNode& scenario : scenarios->value.items) a.scenarios.push_back(scenario.scalar);
  if (const YamlEntry* servable = root.find("servable"))
    for (const YamlNode& server : servable->value.items) a.servable.push_back(server.scalar);
  const YamlNode& predicted = need(root, "predicted");
  if (predicted.kind != YamlNode::Kind::map && predicted.kind != YamlNode::Kind::null)
    throw bad_input("{}: predicted: found {}; must be a map", predicted.where, describe_found(predicted));
  for (const YamlEntry& figure : predicted.entries) {
    const auto value = parse_number(figure.value.scalar);
    if (!value)
      throw bad_input("{}: predicted.{}: found {}; must be a number", figure.where, figure.key,
                      describe_found(figure.value));
    a.predicted[figure.key] = *value;
  }
  const YamlNode& blocks = need(root, "blocks");
  for (const YamlNode& block : blocks.items) a.blocks.push_back(block_of(block));
  if (a.blocks.empty())
    throw bad_input("{}: blocks: found {}; must be a list of blocks", blocks.where, describe_found(blocks));
  return a;
}

ChosenArchitecture parse_architecture(std::string_view yaml, const std::string& name) {
  return architecture_of(parse_yaml(yaml, name));
}

ChosenArchitecture read_architecture(const fs::path& path) { return architecture_of(read_yaml(path)); }

std::vector<ChosenArchitecture> read_architectures(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& file : fs::directory_iterator(folder))
    if (file.path().extension() == ".yaml") files.push_back(file.path());
  std::sort(files.begin(), files.end());
  std::vector<ChosenArchitecture> all;
  for (const fs::path& file : files) all.push_back(read_architecture(file));
  return all;
}

std::vector<int64_t> last_layers(const ChosenArchitecture& architecture) {
  std::vector<int64_t> layers;
  int64_t end = 0;
  for (const ChosenBlock& block : architecture.blocks) layers.push_back((end += block.layers) - 1);
  return layers;
}

std::vector<Replacement> replacements_of(const ChosenArchitecture& architecture, const ModelConfig& teacher) {
  std::vector<Replacement> replacements;
  int64_t layer = 0;
  for (const ChosenBlock& block : architecture.blocks) {
    const auto choice = [&](Subblock s, const std::string& text) {
      try {
        return parse_choice(s, text, teacher);
      } catch (const Error& e) {
        throw bad_input("{}: {}", block.where, e.what());
      }
    };
    const Choice attention = choice(Subblock::attention, block.attention), ffn = choice(Subblock::ffn, block.ffn);
    if (block.together) {
      replacements.push_back({layer, block.layers, attention, ffn});
    } else {
      replacements.push_back({layer, block.layers, attention, {}});
      replacements.push_back({layer, block.layers, {}, ffn});
    }
    layer += block.layers;
  }
  if (layer != teacher.num_hidden_layers)
    throw bad_input("architecture {}: {} blocks for {} layers; the teacher has {}", architecture.name,
                    architecture.blocks.size(), layer, teacher.num_hidden_layers);
  return replacements;
}

Architecture blocks_of(const ChosenArchitecture& architecture, const ModelConfig& teacher) {
  Architecture blocks;
  for (const Replacement& r : replacements_of(architecture, teacher)) {
    if (r.attention) blocks.emplace_back().attention = *r.attention;
    if (r.ffn) blocks.back().ffn = *r.ffn;
  }
  return blocks;
}

}  // namespace tangram
