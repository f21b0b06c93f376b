#pragma once
#include "kernels/context.h"

namespace tangram {

/// Ends a decode step, so that the next can begin without the host: chooses every sequence's token and moves it on.
///
///   ids[s] = the lowest i of the largest logits[s,i]     best[s] = logits[s, ids[s]]     past[s] += 1
///
///   ids, past  (1, S)  i32
///   best       (1, S)  f32
///   logits     (S, V)  f32     any row stride
///
/// A NaN counts as infinity: where `best` is finite, the token is the one of sample_token at temperature 0, and
/// where it is not that would throw. Throws Error if a shape or dtype disagrees.
void greedy_step(Tensor ids, Tensor best, Tensor past, Tensor logits, Context& ctx);

namespace cuda {  // greedy.cu; arguments already checked
void greedy_step(Tensor ids, Tensor best, Tensor past, Tensor logits, Context& ctx);
}

}  // namespace tangram
