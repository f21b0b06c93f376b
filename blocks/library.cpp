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
  return library / fmt::format("{}-{}", r.first_layer, r.first_layer + r.layer_count - 1) / (r.name() + ".safetensors");
}

bool needs_training(const Replacement& r, const ModelConfig& config) {
  if (is_pair(r)) return true;
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

void apply_entry(Model& model, const LibraryEntry& entry) {
  BlockWeights& block = model.blocks.at(static_cast<size_t>(entry.replacement.first_layer));
  for (Subblock s : kSubblocks)
    if (entry.of(s)) block.of(s) = *entry.of(s);
  model.memory.insert(model.memory.end(), entry.memory.begin(), entry.memory.end());
}

Model assemble(const Model& teacher, std::span<const Replacement> replacements, const std::filesystem::path& library) {
  Model student = teacher;
  for (const Replacement& r : replacements) apply_entry(student, load_entry(library, r, teacher));
  return student;
}

}  // namespace tangram
