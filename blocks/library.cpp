#include "blocks/library.h"

#include "blocks/safetensors.h"

namespace tangram {
namespace {

constexpr Subblock kSubblocks[] = {Subblock::attention, Subblock::ffn};

bool is_pair(const Replacement& r) { return r.attention && r.ffn; }

std::string tensor_name(Subblock s, std::string_view tensor) { return fmt::format("{}.{}", name_of(s), tensor); }

// The named subblock of an entry, read from its file in the dtype of the teacher.
SubblockWeights read_subblock(const SafeTensors& file, Subblock s, const Choice& choice, bool own_norm,
                              const Model& teacher, const SubblockWeights& of_teacher, LibraryEntry& entry) {
  SubblockWeights weights{.choice = choice, .norm = of_teacher.norm, .params = {}};
  const ModelConfig& config = teacher.config;
  const std::vector<ParamSpec> specs = choice.variant->params({config, choice.size});
  std::vector<Tensor> stored;
  if (own_norm) stored.push_back(file.at(tensor_name(s, "norm.weight"), 1, config.hidden_size));
  for (const ParamSpec& p : specs) stored.push_back(file.at(tensor_name(s, p.name), p.rows, p.cols));

  for (const Tensor& t : stored) {
    if (t.dtype == teacher.dtype) continue;
    throw bad_input("{}: its tensors are {} and the teacher computes in {}; run the distill stage again", file.name,
                    name_of(t.dtype), name_of(teacher.dtype));
  }
  size_t next = 0;
  if (own_norm) weights.norm = stored[next++];
  while (next < stored.size()) weights.params.emplace_back(stored[next++]);
  entry.memory.insert(entry.memory.end(), file.memory.begin(), file.memory.end());
  return weights;
}

}  // namespace

std::filesystem::path library_path(const std::filesystem::path& library, const Replacement& r) {
  return library / fmt::format("{}-{}", r.first_layer, r.last_layer()) / (r.name() + ".safetensors");
}

bool needs_training(const Replacement& r, const ModelConfig& config) {
  if (is_pair(r)) return !r.attention->variant->no_op || !r.ffn->variant->no_op;
  const Subblock s = r.attention ? Subblock::attention : Subblock::ffn;
  return !r.of(s)->variant->no_op && *r.of(s) != teacher_choice(s, config);
}

void save_entry(const std::filesystem::path& library, const LibraryEntry& entry, const ModelConfig& config) {
  std::vector<NamedTensor> tensors;
  for (Subblock s : kSubblocks) {
    if (!entry.of(s) || entry.of(s)->choice.variant->no_op) continue;
    const SubblockWeights& weights = *entry.of(s);
    if (is_pair(entry.replacement)) tensors.push_back({tensor_name(s, "norm.weight"), weights.norm});
    const std::vector<ParamSpec> specs = weights.choice.variant->params({config, weights.choice.size});
    for (size_t i = 0; i < specs.size(); ++i)
      tensors.push_back({tensor_name(s, specs[i].name), weights.params[i].values});
  }
  const std::filesystem::path path = library_path(library, entry.replacement);
  std::filesystem::create_directories(path.parent_path());
  write_safetensors(path, tensors);
}

LibraryEntry load_entry(const std::filesystem::path& library, const Replacement& r, const Model& teacher) {
  LibraryEntry entry{.replacement = r, .attention = {}, .ffn = {}, .memory = {}};
  std::optional<SafeTensors> file;
  for (Subblock s : kSubblocks) {
    if (!r.of(s)) continue;
    const Choice& choice = *r.of(s);
    const SubblockWeights& of_teacher = teacher.blocks.at(static_cast<size_t>(r.first_layer)).of(s);
    if (choice.variant->no_op) {
      entry.of(s) = SubblockWeights{.choice = choice, .norm = {}, .params = {}};
    } else if (!needs_training(r, teacher.config)) {
      entry.of(s) = of_teacher;
    } else {
      if (!file) file = read_safetensors(library_path(library, r));
      entry.of(s) = read_subblock(*file, s, choice, is_pair(r), teacher, of_teacher, entry);
    }
  }
  return entry;
}

LibraryEntry move_entry(const LibraryEntry& entry, const ModelConfig& config, Arena& memory, Context& ctx) {
  if (ctx.device == Device::cpu) return entry;
  LibraryEntry moved = entry;
  moved.memory.clear();
  for (Subblock s : kSubblocks)
    if (entry.of(s)) moved.of(s) = copy_weights(*entry.of(s), config, memory, ctx);
  return moved;
}

int64_t entry_bytes(const Replacement& r, const ModelConfig& config, DType dtype) {
  Arena planner = Arena::planner();
  for (Subblock s : kSubblocks)
    if (r.of(s)) make_weights(*r.of(s), config, dtype, planner);
  return planner.used_bytes();
}

Model assemble(const Model& teacher, std::span<const LibraryEntry> entries) {
  Model student = teacher;
  std::vector<bool> filled(2 * teacher.blocks.size()), absorbed(teacher.blocks.size());
  for (const LibraryEntry& entry : entries) {
    const Replacement& r = entry.replacement;
    for (int64_t layer = r.first_layer; layer <= r.last_layer(); ++layer)
      for (const Subblock s : kSubblocks) {
        if (!entry.of(s)) continue;
        const size_t slot = 2 * static_cast<size_t>(layer) + (s == Subblock::ffn);
        CHECK(!filled.at(slot), "two replacements of the {} of layer {}", name_of(s), layer);
        filled[slot] = true;
        if (layer == r.first_layer)
          student.blocks[static_cast<size_t>(layer)].of(s) = *entry.of(s);
        else
          absorbed[static_cast<size_t>(layer)] = true;
      }
    student.memory.insert(student.memory.end(), entry.memory.begin(), entry.memory.end());
  }
  size_t layer = 0;
  std::erase_if(student.blocks, [&](const BlockWeights&) { return absorbed[layer++]; });
  student.config.num_hidden_layers = std::ssize(student.blocks);
  return student;
}

Model assemble(const Model& teacher, std::span<const Replacement> replacements, const std::filesystem::path& library) {
  std::vector<LibraryEntry> entries;
  for (const Replacement& r : replacements) entries.push_back(load_entry(library, r, teacher));
  return assemble(teacher, entries);
}

}  // namespace tangram
