#include "distill/replicas.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace tangram {
namespace {

// Messages of different kinds between the same two ranks.
enum Tag : int { kGradients = 1, kWeights, kRows };

/// Elements that travel at once: large enough for the full bandwidth, small enough that the copies of all replicas,
/// which the owner adds, take little memory.
constexpr int64_t kPiece = int64_t{4} << 20;

/// The same tensor in one row, piece by piece.
template <class Use>
void for_pieces(Tensor x, Use use) {
  const Tensor flat = x.reshape(1, x.size());
  for (int64_t first = 0; first < flat.cols; first += kPiece)
    use(flat.col_range(first, std::min(kPiece, flat.cols - first)));
}

}  // namespace

int64_t Replicas::assign(int64_t parameters) {
  owned.resize(static_cast<size_t>(count));
  const auto least = std::min_element(owned.begin(), owned.end());
  *least += parameters;
  return least - owned.begin();
}

void sum_gradients(std::span<const Trainable> trainables, std::span<const int64_t> owners, const Replicas& replicas,
                   Context& ctx) {
  if (replicas.count == 1) return;
  const ArenaScope scope(ctx.scratch);
  std::vector<Tensor> copies;  // of one piece, one a replica
  for (int64_t r = 0; r < replicas.count; ++r) copies.push_back(ctx.scratch.tensor(1, kPiece, DType::f32));
  if (ctx.planning()) return;
  std::vector<Pending> sends;
  const auto sum = [&](Tensor piece) {
    std::vector<Tensor> parts;
    std::vector<Message> messages;
    for (int r = 0; r < static_cast<int>(replicas.count); ++r) {
      parts.push_back(copies[static_cast<size_t>(r)].col_range(0, piece.cols));
      if (r != replicas.index) messages.push_back({Message::received, parts.back(), r, kGradients});
    }
    copy(parts[static_cast<size_t>(replicas.index)], piece, ctx);
    replicas.group->exchange(messages).wait();
    tree_sum(piece, parts, ctx);
  };
  for (size_t i = 0; i < trainables.size(); ++i)
    for (const TrainableTensor& t : trainables[i].tensors)
      for_pieces(t.grad, [&](Tensor piece) {
        if (owners[i] == replicas.index)
          sum(piece);
        else
          sends.push_back(replicas.group->send(piece, static_cast<int>(owners[i]), kGradients));
      });
  for (Pending& sent : sends) sent.wait();
}

void share_weights(std::span<const Trainable> trainables, std::span<const int64_t> owners, const Replicas& replicas,
                   Context& ctx) {
  if (replicas.count == 1 || ctx.planning()) return;
  std::vector<Message> messages;
  for (size_t i = 0; i < trainables.size(); ++i)
    for (const TrainableTensor& t : trainables[i].tensors)
      if (owners[i] != replicas.index)
        messages.push_back({Message::received, t.weight, static_cast<int>(owners[i]), kWeights});
      else
        for (int r = 0; r < static_cast<int>(replicas.count); ++r)
          if (r != replicas.index) messages.push_back({Message::sent, t.weight, r, kWeights});
  replicas.group->exchange(messages).wait();
}

void gather_rows(Tensor x, const Replicas& replicas, Context& ctx) {
  if (replicas.count == 1 || ctx.planning()) return;
  const int64_t rows = x.rows / replicas.count;
  std::vector<Message> messages;
  for (int r = 0; r < static_cast<int>(replicas.count); ++r) {
    if (r == replicas.index) continue;
    messages.push_back({Message::sent, x.row_range(replicas.index * rows, rows), r, kRows});
    messages.push_back({Message::received, x.row_range(r * rows, rows), r, kRows});
  }
  replicas.group->exchange(messages).wait();
}

}  // namespace tangram
