#pragma once
#include "kernels/head_loss.h"

// What head_loss does with logits: of a tile of tokens, chunk after chunk of the vocabulary.

namespace tangram {

/// Logits of n tokens, ids first_id to first_id + v.
struct LogitTile {
  Tensor student;  ///< (n, v)  f32     any row stride
  Tensor teacher;  ///< (n, v)  f32     empty: none
  int64_t first_id;
};

/// What else is known of those tokens. The arrays are the device's; null: none.
struct TileTokens {
  Tensor states;           ///< (n, token_state_bytes)  u8   what has been seen of each one's logits
  const int32_t* targets;  ///< < 0: none
  const float* weights;    ///< null: all 1
};

int64_t token_state_bytes(Device device);

/// Takes a chunk of logits into the states, which it starts if `first_id` is 0. The chunks come in ascending order.
/// Greedy tokens and ranks need `want_top`.
void add_logits(const TileTokens& tokens, const LogitTile& logits, bool want_top, Context& ctx);

/// Losses of tokens whose logits have all been added: elements (1, n) of HeadLosses.
void write_losses(const HeadLosses& out, const TileTokens& tokens, Context& ctx);

/// dlogits (n, v) T = the gradient of the objective (its weights are in `tokens`) to the student's logits, of tokens
/// whose losses have been written. dlogits may be the student's logits.
void write_gradient(Tensor dlogits, const LogitTile& logits, const TileTokens& tokens, const HeadObjective& objective,
                    Context& ctx);

namespace cuda {  // head_loss_tile.cu
int64_t token_state_bytes();
void add_logits(const TileTokens& tokens, const LogitTile& logits, bool want_top, Context& ctx);
void write_losses(const HeadLosses& out, const TileTokens& tokens, Context& ctx);
void write_gradient(Tensor dlogits, const LogitTile& logits, const TileTokens& tokens, const HeadObjective& objective,
                    Context& ctx);
}  // namespace cuda

}  // namespace tangram
