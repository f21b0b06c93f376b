#include "distill/gkd.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>

#include "kernels/clip.h"
#include "kernels/elementwise.h"
#include "kernels/make_arena.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

enum Tag : int { kTiedGradient = 13, kTiedWeight };  // of messages; see gkd_pipeline.cpp

}  // namespace

GkdTrainer::GkdTrainer(Model& student, const Model* teacher, const GkdOptions& options, Context& ctx)
    : GkdTrainer(student, teacher, options, GkdPart{.end = std::ssize(student.blocks)}, ctx) {}

GkdTrainer::GkdTrainer(Model& student, const Model* teacher, const GkdOptions& options, GkdPart part, Context& ctx)
    : student_(student),
      teacher_(teacher),
      options_(options),
      part_(std::move(part)),
      ctx_(ctx),
      tensors_(part_slice(student, part_.begin, part_.end)),
      tensor_count_(named_tensors(student).size()),
      numbers_((kCosine + student.blocks.size()) * size_t(options.micro_batches) + tensor_count_) {
  if (options_.teacher_layers.empty())
    for (int64_t b = 0; b < std::ssize(student.blocks); ++b) options_.teacher_layers.push_back(b);
  check_options();
  assign_owners();
  Arena state_plan = Arena::planner(), work_plan = Arena::planner();
  lay_out(state_plan);
  lay_out_work(work_plan);
  state_ = std::make_unique<Arena>(make_arena(state_plan.used_bytes(), ctx));
  work_ = std::make_unique<Arena>(make_arena(work_plan.used_bytes(), ctx));
  lay_out(*state_);
  lay_out_work(*work_);
  for (const Trainable& trainable : own_trainables()) start_training(trainable, ctx_);
}

void GkdTrainer::check_options() const {
  CHECK(teacher_ || (options_.loss.cosine == 0 && options_.loss.kl == 0), "a distillation loss needs a teacher");
  const std::vector<int64_t>& layers = options_.teacher_layers;
  const size_t count = student_.blocks.size();
  CHECK(layers.size() == count, "{} student blocks that end with {} teacher layers", count, layers.size());
  for (size_t b = 0; teacher_ && b < count; ++b)
    CHECK(layers[b] > (b > 0 ? layers[b - 1] : -1) && layers[b] < std::ssize(teacher_->blocks) &&
              (b + 1 < count || layers[b] + 1 == std::ssize(teacher_->blocks)),
          "the student's block {} of {} ends with the teacher's layer {} of {}", b, count, layers[b],
          teacher_->blocks.size());
  CHECK(std::has_single_bit(uint64_t(options_.shards)) && options_.shards % part_.replicas.count == 0 &&
            options_.micro_batches % options_.shards == 0,
        "{} micro-batches in {} shards on {} replicas", options_.micro_batches, options_.shards, part_.replicas.count);
  CHECK(part_.begin < part_.end && part_.is_first() == (part_.begin == 0) &&
            part_.is_last() == (part_.end == std::ssize(student_.blocks)),
        "stage {} of {} with blocks {} to {} of {}", part_.stage, part_.stages, part_.begin, part_.end, count);
}

// --- memory ---

std::span<const BlockWeights> GkdTrainer::blocks() const {
  return std::span(student_.blocks).subspan(size_t(part_.begin), size_t(part_.end - part_.begin));
}

// The largest first, each to the replica with least. A tied embedding is the first replica's, in the first stage and in
// the last.
void GkdTrainer::assign_owners() {
  const std::vector<NamedTensor> tensors = part_tensors(student_, part_.begin, part_.end);
  const bool tied = student_.config.tie_word_embeddings;
  std::vector<size_t> by_size(tensors.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  const size_t first = tied && part_.is_first() ? 1 : 0;
  std::stable_sort(by_size.begin() + int64_t(first), by_size.end(),
                   [&](size_t a, size_t b) { return tensors[a].tensor.size() > tensors[b].tensor.size(); });
  owners_.resize(tensors.size());
  for (const size_t i : by_size) owners_[i] = part_.replicas.assign(tensors[i].tensor.size());
  if (tied && part_.is_last()) owners_.push_back(0);
}

void GkdTrainer::lay_out(Arena& state) {
  trainables_.clear();
  for (const NamedTensor& t : part_tensors(student_, part_.begin, part_.end)) {
    const bool is_matrix = t.tensor.rows > 1;  // norms are not decayed
    const bool own = is_own(trainables_.size());
    trainables_.push_back({"student", {make_trainable(t.name, t.tensor, is_matrix, own ? &state : nullptr)}});
  }
  if (student_.config.tie_word_embeddings && part_.is_last())
    trainables_.push_back({"student", {make_trainable("tied head", student_.head.values, true, nullptr)}});
  lay_out_gradients(state);
}

void GkdTrainer::lay_out_gradients(Arena& state) {
  int64_t total = 0;
  for (const Trainable& t : trainables_) total += t.tensors[0].weight.size();
  gradients_ = state.tensor(1, total, DType::f32);
  tree_sums_.clear();
  for (int64_t shards = shards_here(); shards > 1; shards /= 2)
    tree_sums_.push_back(state.tensor(1, total, DType::f32));

  size_t next = 0;
  for (int64_t used = 0; Trainable & t : trainables_) {
    const Tensor weight = t.tensors[0].weight;
    t.tensors[0].grad = gradients_.col_range(used, weight.size()).reshape(weight.rows, weight.cols);
    used += weight.size();
  }
  const auto take = [&] { return trainables_[next++].tensors[0].grad; };
  if (part_.is_first()) embedding_grad_ = take();
  subblock_grads_.clear();
  for (const BlockWeights& block : blocks())
    for (const SubblockWeights* weights : {&block.attention, &block.ffn}) {
      SubblockGrads grads;
      if (!weights->choice.variant->no_op) grads.norm = take();
      for (size_t i = 0; i < weights->params.size(); ++i) grads.params.push_back(take());
      subblock_grads_.push_back(std::move(grads));
    }
  if (part_.is_last()) final_norm_grad_ = take(), head_grad_ = take();
}

void GkdTrainer::lay_out_work(Arena& work) {
  const int64_t N = options_.batch_tokens;
  const auto stream = [&](const Model& model) { return work.tensor(N, model.config.hidden_size, model.dtype); };
  activations_ = make_activations(blocks(), student_.config, N, student_.dtype, work);
  // Those of the stages behind, its own, and the one that comes meanwhile.
  const int64_t most = part_.stages - part_.stage + (part_.is_first() ? 0 : 1);
  in_flight_.resize(size_t(std::min(most, micro_batches_here())));
  for (InFlight& flight : in_flight_) {
    flight.input = stream(student_);
    flight.teacher.clear();
    for (size_t b = 0; teacher_ && b < blocks().size(); ++b) flight.teacher.push_back(stream(*teacher_));
  }
  dx_ = stream(student_);
  token_loss_ = work.tensor(1, N, DType::f32);
  token_kl_ = work.tensor(1, N, DType::f32);
  if (!part_.is_last()) {
    stream_ = stream(student_);
    return;
  }
  rstd_ = work.tensor(1, N, DType::f32);
  hidden_ = stream(student_);
  if (teacher_) teacher_final_ = stream(*teacher_);
}

// The balanced tree of tree_sum, grown from the left: two sums over as many shards are added as soon as both are there.
void GkdTrainer::end_shard(int64_t shard) {
  size_t level = 0;
  for (; shard >> level & 1; ++level) add(gradients_, tree_sums_[level], gradients_, ctx_);
  if (shard + 1 == shards_here()) return;
  copy(tree_sums_[level], gradients_, ctx_);
  fill_zero(gradients_, ctx_);
}

// --- the end of a step ---

// For each loss the micro-batches of all replicas; then all norms.
double& GkdTrainer::loss_number(size_t loss, int64_t m) {
  return numbers_[loss * size_t(options_.micro_batches) + size_t(part_.replicas.index * micro_batches_here() + m)];
}

double& GkdTrainer::norm_number(size_t tensor) { return numbers_[numbers_.size() - tensor_count_ + tensor]; }

// Returns when all is there.
void GkdTrainer::exchange(std::vector<Message> messages, const std::vector<Message>& more) {
  messages.insert(messages.end(), more.begin(), more.end());
  if (!messages.empty() && part_.world && !ctx_.planning()) part_.world->exchange(messages).wait();
}

// The sums over replicas of what a tied embedding gets as the head are added to what it gets as the embedding.
void GkdTrainer::add_tied_gradient() {
  if (!student_.config.tie_word_embeddings || part_.replicas.index != 0) return;
  if (part_.stages == 1) return add(embedding_grad_, embedding_grad_, head_grad_, ctx_);
  if (part_.is_last()) exchange({{Message::sent, head_grad_, part_.grid().rank_of(0, 0), kTiedGradient}});
  if (!part_.is_first()) return;
  const ArenaScope scope(ctx_.scratch);
  const Tensor arrived = ctx_.scratch.tensor(embedding_grad_.rows, embedding_grad_.cols, DType::f32);
  exchange({{Message::received, arrived, part_.grid().rank_of(part_.stages - 1, 0), kTiedGradient}});
  add(embedding_grad_, embedding_grad_, arrived, ctx_);
}

std::vector<Trainable> GkdTrainer::own_trainables() const {
  std::vector<Trainable> own;
  for (size_t i = 0; i < size_t(tensors_.count); ++i)
    if (is_own(i)) own.push_back(trainables_[i]);
  return own;
}

// Every process gets the norms and losses of all. Each number is one process's; with the others it is 0.
void GkdTrainer::share_numbers() {
  std::vector<std::vector<Tensor>> grads;
  for (const Trainable& t : own_trainables()) grads.push_back({t.tensors[0].grad});
  const std::vector<double> norms = gradient_norms(grads, ctx_);
  size_t next = 0;
  for (size_t i = 0; i < size_t(tensors_.count); ++i)
    if (is_own(i)) norm_number(size_t(tensors_.first) + i) = norms[next++];
  if (!part_.world || ctx_.planning()) return;
  const std::string mine(reinterpret_cast<const char*>(numbers_.data()), numbers_.size() * sizeof(double));
  const std::vector<std::string> all = part_.world->gather(mine);
  std::fill(numbers_.begin(), numbers_.end(), 0.0);
  for (const std::string& text : all) {
    std::vector<double> theirs(numbers_.size());
    std::memcpy(theirs.data(), text.data(), text.size());
    for (size_t i = 0; i < theirs.size(); ++i) numbers_[i] += theirs[i];
  }
}

GkdLosses GkdTrainer::losses_of_step() const {
  const size_t count = size_t(options_.micro_batches), losses = kCosine + student_.blocks.size();
  GkdLosses sums;
  double squares = 0;
  for (const double norm : std::span(numbers_).last(tensor_count_)) squares += norm * norm;
  sums.gradient_norm = std::sqrt(squares);
  for (size_t m = 0; m < count; ++m) {
    sums.kl += numbers_[kKl * count + m];
    sums.cross_entropy += numbers_[kCrossEntropy * count + m];
    for (size_t loss = losses; loss-- > kCosine;) sums.cosine += numbers_[loss * count + m];
  }
  return sums;
}

// From the owners to all, and to the last stage where the head is the embedding.
void GkdTrainer::share_updated_weights() {
  const bool tied = student_.config.tie_word_embeddings && part_.stages > 1 && part_.replicas.index == 0;
  if (tied && part_.is_first())
    exchange({{Message::sent, student_.embedding.values, part_.grid().rank_of(part_.stages - 1, 0), kTiedWeight}});
  if (tied && part_.is_last())
    exchange({{Message::received, student_.head.values, part_.grid().rank_of(0, 0), kTiedWeight}});
  const size_t count = part_.stages > 1 ? trainables_.size() : size_t(tensors_.count);
  share_weights(std::span(trainables_).first(count), owners_, part_.replicas, ctx_);
}

GkdLosses GkdTrainer::step(std::span<const Batch> micro_batches) {
  CHECK(std::ssize(micro_batches) == micro_batches_here(), "{} micro-batches of {}", micro_batches.size(),
        micro_batches_here());
  for (const Batch& batch : micro_batches)
    CHECK(std::ssize(batch.tokens) == options_.batch_tokens, "a batch of {} tokens, not {}", batch.tokens.size(),
          options_.batch_tokens);
  std::fill(numbers_.begin(), numbers_.end(), 0.0);
  fill_zero(gradients_, ctx_);
  run_micro_batches(micro_batches);
  sum_gradients(trainables_, owners_, part_.replicas, ctx_);
  add_tied_gradient();
  share_numbers();
  const GkdLosses losses = losses_of_step();
  if (!std::isfinite(losses.gradient_norm) || !std::isfinite(losses.cross_entropy + losses.kl + losses.cosine))
    throw Error(
        fmt::format("training broke at step {}: cross-entropy {}, KL {}, gradient norm {}; lower the learning_rate",
                    steps_done_, losses.cross_entropy, losses.kl, losses.gradient_norm));
  const double clip = options_.optimiser.gradient_clip;
  const std::vector<Trainable> own = own_trainables();
  const std::vector<double> scales(own.size(), clip > 0 ? clip_factor(losses.gradient_norm, clip) : 1);
  update_weights(own, scales, options_.optimiser, options_.schedule.learning_rate(steps_done_), steps_done_ + 1, ctx_);
  share_updated_weights();
  ++steps_done_;
  return losses;
}

std::vector<NamedTensor> GkdTrainer::state() const {
  std::vector<NamedTensor> tensors;
  for (const Trainable& t : own_trainables()) append_state(tensors, t);
  return tensors;
}

void GkdTrainer::resume(int64_t steps_done) {
  for (const Trainable& t : own_trainables()) restore_weights(t, ctx_);
  share_updated_weights();
  steps_done_ = steps_done;
}

}  // namespace tangram
