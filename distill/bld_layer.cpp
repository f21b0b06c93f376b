#include "distill/bld_layer.h"

#include <algorithm>
#include <bit>

#include "kernels/transfer.h"

namespace tangram {

namespace {

// Weights that the host can read: where they are if that is its memory, else a copy in `memory`.
SubblockWeights on_host(const SubblockWeights& weights, const ModelConfig& config,
                        std::vector<std::shared_ptr<void>>& memory, Context& ctx) {
  if (weights.choice.variant->no_op || weights.norm.device == Device::cpu) return weights;
  Context planning({.planning = true});
  Arena planner = Arena::planner();
  copy_weights(weights, config, planner, planning);
  const auto arena = std::make_shared<Arena>(planner.used_bytes());
  memory.push_back(arena);
  return copy_weights(weights, config, *arena, ctx);
}

int64_t parameter_count_of(const Replacement& r, const ModelConfig& config) {
  int64_t count = 0;
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    if (r.of(s)) count += parameter_count(*r.of(s), config);
  return count;
}

}  // namespace

BldLayer::BldLayer(int64_t layer, std::span<const Replacement> replacements, std::span<const size_t> places,
                   const ModelConfig& config, DType dtype, const BldOptions& options, Replicas& replicas, Arena& state)
    : index_(layer), config_(config), dtype_(dtype), options_(options), replicas_(replicas) {
  const auto unfilled = [](const std::optional<Choice>& choice) {
    return SubblockWeights{.choice = *choice, .norm = {}, .params = {}};
  };
  const auto add_students = [&](auto belongs, auto add) {
    for (const size_t place : places)
      if (const Replacement& r = replacements[place]; r.last_layer() == layer && belongs(r)) {
        CHECK(r.layer_count == 1 || (r.attention && r.ffn), "{} of layers {} is no whole block", r.name(), r.layers());
        places_.push_back(place);
        trainables_.push_back({.name = fmt::format("{}.{}", r.layers(), r.name()), .tensors = {}});
        add(r, trainables_.size() - 1);
      }
  };
  const auto is_pair = [](const Replacement& r) { return r.attention && r.ffn; };
  for (Group& group : groups_)
    add_students([&](const Replacement& r) { return !is_pair(r) && r.of(group.subblock); },
                 [&](const Replacement& r, size_t number) {
                   group.students.push_back({.number = number, .weights = unfilled(r.of(group.subblock))});
                 });
  add_students(is_pair, [&](const Replacement& r, size_t number) {
    pairs_.push_back(
        {.number = number, .layers_back = r.layer_count - 1, .weights = {unfilled(r.attention), unfilled(r.ffn)}});
  });
  assign_owners(replacements);
  for (Group& group : groups_) lay_out(group, state);
  for (Pair& pair : pairs_) lay_out(pair, state);
}

// The largest first: the others then even out what the replicas own.
void BldLayer::assign_owners(std::span<const Replacement> replacements) {
  std::vector<std::pair<int64_t, size_t>> by_size;
  for (size_t i = 0; i < places_.size(); ++i)
    by_size.emplace_back(-parameter_count_of(replacements[places_[i]], config_), i);
  std::sort(by_size.begin(), by_size.end());
  owners_.resize(places_.size());
  for (const auto& [negative_size, i] : by_size) owners_[i] = replicas_.assign(-negative_size);
}

int64_t BldLayer::reach() const {
  int64_t reach = 0;
  for (const Pair& pair : pairs_) reach = std::max(reach, pair.layers_back);
  return reach;
}

bool BldLayer::reaches(int64_t layers_back) const {
  return std::any_of(pairs_.begin(), pairs_.end(), [&](const Pair& pair) { return pair.layers_back == layers_back; });
}

void BldLayer::lay_out(Group& group, Arena& state) {
  int64_t rows = 0;
  for (Student& s : group.students) {
    s.column = rows, s.columns = projection_size(s.weights.choice, config_);
    rows += s.columns;
  }
  group.input_weight = state.tensor(rows, config_.hidden_size, dtype_);
  for (Student& s : group.students) {
    int64_t row = s.column;
    const Choice& choice = s.weights.choice;
    for (const ParamSpec& p : choice.variant->params({config_, choice.size})) {
      const Tensor weight =
          p.input ? group.input_weight.values.row_range(row, p.rows) : state.tensor(p.rows, p.cols, dtype_);
      if (p.input) row += p.rows;
      s.weights.params.emplace_back(weight);
      trainables_[s.number].tensors.push_back(
          make_trainable(p.name, weight, true, is_own(s.number) ? &state : nullptr));
    }
    s.grads.resize(s.weights.params.size());
  }
}

void BldLayer::lay_out(Pair& pair, Arena& state) {
  std::vector<TrainableTensor>& tensors = trainables_[pair.number].tensors;
  Arena* const own_state = is_own(pair.number) ? &state : nullptr;
  for (const Subblock sub : {Subblock::attention, Subblock::ffn}) {
    SubblockWeights& weights = pair.weights.of(sub);
    weights = make_weights(weights.choice, config_, dtype_, state);
    if (weights.choice.variant->no_op) continue;
    const std::string prefix = std::string(name_of(sub)) + ".";
    tensors.push_back(make_trainable(prefix + "norm", weights.norm, false, own_state));
    const std::vector<ParamSpec> specs = weights.choice.variant->params({config_, weights.choice.size});
    for (size_t i = 0; i < specs.size(); ++i)
      tensors.push_back(make_trainable(prefix + specs[i].name, weights.params[i].values, true, own_state));
  }
}

// Variants start on the host, whose code reads single weights and solves for them.
void BldLayer::initialise(const BlockWeights& teacher, const LayerStatistics& statistics, Context& ctx) {
  std::optional<Context> own;
  Context& host = ctx.device == Device::cpu ? ctx : own.emplace(Context::Options{.threads = ctx.threads});
  std::vector<std::shared_ptr<void>> memory;
  const BlockWeights block{on_host(teacher.attention, config_, memory, ctx),
                           on_host(teacher.ffn, config_, memory, ctx)};
  const auto start = [&](SubblockWeights& student, Subblock sub, size_t place) {
    const Choice& choice = student.choice;
    if (choice.variant->no_op) return;
    Arena planner = Arena::planner();
    make_weights(choice, config_, dtype_, planner);
    Arena started(planner.used_bytes());
    const SubblockWeights first = make_weights(choice, config_, dtype_, started);
    const InitInputs inputs{options_.init, options_.seed + place, &statistics.of(sub)};
    choice.variant->init_from_teacher(first.params, block.of(sub).params, {config_, choice.size}, inputs, host);
    for (size_t i = 0; i < first.params.size(); ++i) transfer(student.params[i].values, first.params[i].values, ctx);
    if (student.norm.data) transfer(student.norm, block.of(sub).norm, ctx);
  };
  for (Group& group : groups_)
    for (Student& s : group.students) start(s.weights, group.subblock, places_[s.number]);
  for (Pair& pair : pairs_)
    for (const Subblock sub : {Subblock::attention, Subblock::ffn})
      start(pair.weights.of(sub), sub, places_[pair.number]);
  for (const Trainable& trainable : own_trainables()) start_training(trainable, ctx);
}

void BldLayer::add_to(BldPlan& plan) const {
  int64_t gradients = 0;
  for (const Trainable& trainable : trainables_)
    for (const TrainableTensor& t : trainable.tensors) {
      plan.weight_bytes += t.weight.bytes();
      if (t.master.data != t.weight.data) plan.master_bytes += t.master.bytes();  // nothing where another owns it
      plan.moment_bytes += t.moment1.bytes() + t.moment2.bytes();
      gradients += t.weight.size() * size_of(DType::f32);
    }
  gradients *= 1 + std::countr_zero(static_cast<uint64_t>(options_.shards / replicas_.count));  // with tree_sums_
  plan.gradient_bytes = std::max(plan.gradient_bytes, gradients);  // the layers' are in the same memory
}

std::vector<Trainable> BldLayer::own_trainables() const {
  std::vector<Trainable> own;
  for (size_t i = 0; i < trainables_.size(); ++i)
    if (is_own(i)) own.push_back(trainables_[i]);
  return own;
}

bool BldLayer::owns(size_t place) const {
  const auto found = std::find(places_.begin(), places_.end(), place);
  return found != places_.end() && is_own(size_t(found - places_.begin()));
}

void BldLayer::append_state(std::vector<NamedTensor>& tensors) const {
  for (const Trainable& trainable : own_trainables()) tangram::append_state(tensors, trainable);
}

void BldLayer::resume(Context& ctx) {
  for (const Trainable& trainable : own_trainables()) restore_weights(trainable, ctx);
  share_weights(trainables_, owners_, replicas_, ctx);
}

LibraryEntry BldLayer::entry(const Replacement& replacement, size_t place, const BlockWeights& teacher,
                             Context& ctx) const {
  LibraryEntry entry{.replacement = replacement, .attention = {}, .ffn = {}, .memory = {}};
  const auto add = [&](Subblock sub, const SubblockWeights& weights) {
    entry.of(sub) = on_host(weights, config_, entry.memory, ctx);
  };
  for (const Pair& pair : pairs_)
    if (places_[pair.number] == place)
      add(Subblock::attention, pair.weights.attention), add(Subblock::ffn, pair.weights.ffn);
  for (const Group& group : groups_)
    for (const Student& s : group.students)
      if (places_[s.number] == place)
        add(group.subblock, {s.weights.choice, teacher.of(group.subblock).norm, s.weights.params});
  return entry;
}

}  // namespace tangram
