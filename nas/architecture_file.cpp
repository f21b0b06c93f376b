#include "nas/architecture_file.h"

#include <algorithm>
#include <cmath>

#include "blocks/file.h"
#include "nas/units.h"
#include "nas/yaml.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kTogether = "together", kApart = "apart";

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

Choice choice_of(const YamlNode& block, Subblock s, const ModelConfig& teacher) {
  const YamlNode& node = need(block, name_of(s));
  try {
    return parse_choice(s, node.scalar, teacher);
  } catch (const Error& e) {
    throw bad_input("{}: {}", node.where, e.what());
  }
}

// A block as the file lists it.
struct Block {
  BlockChoice choice;
  int64_t layers = 0;     // that it stands for; 0: the block of an earlier layer stands for this one
  bool together = false;  // a pair or span that was trained as one
};

std::vector<Block> list_blocks(const ChosenArchitecture& a) {
  int64_t layer_count = 0;
  for (const Replacement& r : a.replacements) layer_count = std::max(layer_count, r.last_layer() + 1);
  std::vector<Block> of_layer(static_cast<size_t>(layer_count));
  for (const Replacement& r : a.replacements) {
    Block& block = of_layer[static_cast<size_t>(r.first_layer)];
    if (r.attention) block.choice.attention = *r.attention;
    if (r.ffn) block.choice.ffn = *r.ffn;
    block.together = r.attention && r.ffn;
    block.layers = r.layer_count;
  }
  std::vector<Block> blocks;
  for (size_t l = 0; l < of_layer.size(); l += static_cast<size_t>(of_layer[l].layers)) {
    const BlockChoice& choice = of_layer[l].choice;
    CHECK(choice.attention.variant && choice.ffn.variant, "layer {} of {} is not whole", l, a.name);
    blocks.push_back(of_layer[l]);
  }
  return blocks;
}

}  // namespace

std::string architecture_yaml(const ChosenArchitecture& a) {
  std::string yaml =
      fmt::format("name: {}\ntarget: {}\nmethod: {}\nobjective: {}\nproven: {}\npredicted:\n", yaml_scalar(a.name),
                  yaml_scalar(a.target), yaml_scalar(a.method), yaml_scalar(a.objective), a.proven);
  for (const auto& [figure, value] : a.predicted)
    yaml += fmt::format("  {}: {}\n", yaml_scalar(figure), format_exact(value));
  yaml += "blocks:\n";
  for (const Block& block : list_blocks(a))
    yaml += fmt::format("  - {{attention: {}, ffn: {}, trained: {}{}}}\n", block.choice.attention.name(),
                        block.choice.ffn.name(), block.together ? kTogether : kApart,
                        block.layers > 1 ? fmt::format(", layers: {}", block.layers) : "");
  return yaml;
}

void write_architecture(const fs::path& path, const ChosenArchitecture& a) {
  fs::create_directories(path.parent_path());
  write_file_atomically(path, architecture_yaml(a));
}

// The layers that a block stands for: 1 unless it says more.
static int64_t layers_of(const YamlNode& block, const ModelConfig& teacher) {
  const YamlEntry* entry = block.find("layers");
  if (!entry) return 1;
  const auto value = parse_number(entry->value.scalar);
  if (!value || *value != std::floor(*value) || *value < 1 || *value > double(teacher.num_hidden_layers))
    throw bad_input("{}: layers: found {}; must be a whole number from 1 to {}", entry->value.where,
                    describe_found(entry->value), teacher.num_hidden_layers);
  return static_cast<int64_t>(*value);
}

static ChosenArchitecture architecture_of(const YamlNode& root, const ModelConfig& teacher) {
  ChosenArchitecture a;
  a.name = text_of(root, "name"), a.target = text_of(root, "target"), a.method = text_of(root, "method");
  a.objective = text_of(root, "objective"), a.proven = flag_of(root, "proven");
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
  int64_t layer = 0;
  for (const YamlNode& block : blocks.items) {
    const Choice attention = choice_of(block, Subblock::attention, teacher),
                 ffn = choice_of(block, Subblock::ffn, teacher);
    const std::string trained = text_of(block, "trained");
    const int64_t layers = layers_of(block, teacher);
    if (trained == kTogether) {
      a.replacements.push_back({.first_layer = layer, .layer_count = layers, .attention = attention, .ffn = ffn});
    } else if (trained == kApart && layers == 1) {
      a.replacements.push_back({.first_layer = layer, .layer_count = 1, .attention = attention, .ffn = {}});
      a.replacements.push_back({.first_layer = layer, .layer_count = 1, .attention = {}, .ffn = ffn});
    } else {
      throw bad_input("{}: trained: found '{}'; must be {}", block.where, trained,
                      layers == 1 ? fmt::format("{} or {}", kTogether, kApart)
                                  : fmt::format("{} for a block of {} layers", kTogether, layers));
    }
    layer += layers;
  }
  if (layer != teacher.num_hidden_layers)
    throw bad_input("{}: {} blocks for {} layers; the teacher has {}", blocks.where, blocks.items.size(), layer,
                    teacher.num_hidden_layers);
  return a;
}

ChosenArchitecture parse_architecture(std::string_view yaml, const std::string& name, const ModelConfig& teacher) {
  return architecture_of(parse_yaml(yaml, name), teacher);
}

ChosenArchitecture read_architecture(const fs::path& path, const ModelConfig& teacher) {
  return architecture_of(read_yaml(path), teacher);
}

std::vector<ChosenArchitecture> read_architectures(const fs::path& folder, const ModelConfig& teacher) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& file : fs::directory_iterator(folder))
    if (file.path().extension() == ".yaml") files.push_back(file.path());
  std::sort(files.begin(), files.end());
  std::vector<ChosenArchitecture> all;
  for (const fs::path& file : files) all.push_back(read_architecture(file, teacher));
  return all;
}

std::vector<int64_t> last_layers(const ChosenArchitecture& architecture) {
  std::vector<int64_t> layers;
  int64_t end = 0;
  for (const Block& block : list_blocks(architecture)) layers.push_back((end += block.layers) - 1);
  return layers;
}

Architecture blocks_of(const ChosenArchitecture& architecture) {
  Architecture blocks;
  for (const Block& block : list_blocks(architecture)) blocks.push_back(block.choice);
  return blocks;
}

}  // namespace tangram
