#pragma once
#include <span>
#include <vector>

#include "blocks/model.h"
#include "kernels/graph.h"

namespace tangram {

/// Decodes all sequences of a cache a token at a time. Everything that a step needs stays on the context's device, so
/// that on a GPU a step is one graph, and the host has nothing to do between two of them.
class Decoder {
 public:
  /// Model and cache are the context's device's and outlive the decoder, and no weight is written meanwhile.
  Decoder(const Model& model, KvCache& cache, Context& ctx);
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Sequence s goes on with the token `tokens[s]`, behind `past[s]` that are cached.
  void start(std::span<const int32_t> tokens, std::span<const int32_t> past);

  /// Adds the tokens to the cache; each sequence goes on with the one of the largest logit. Does not wait for a GPU.
  /// Throws Error if a sequence outgrows its cache.
  void step();

  /// Waits for the tokens that the sequences go on with. Throws Error if a logit was not finite.
  std::vector<int32_t> tokens();

  /// What the last step has computed, on the context's device: (S, V) f32.
  Tensor logits() const { return buffers_.logits; }

 private:
  struct Buffers {
    Tensor offsets;    // (1, S + 1)  i32   every sequence brings a token
    Tensor past;       // (1, S)      i32
    Tensor ids, best;  // (1, S)      i32, f32: the tokens to go on with and their logits, side by side
    Tensor rope;       // (S, D)      f32
    Tensor hidden;     // (S, H)      T
    Tensor logits;     // (S, V)      f32
  };
  static Buffers lay_out(const Model& model, int64_t sequences, Arena& memory);
  void run_step();

  const Model& model_;
  KvCache& cache_;
  Context& ctx_;
  const std::vector<double> frequencies_;
  Arena memory_;
  Buffers buffers_;
  std::vector<int32_t> past_;  // as on the device
  Graph graph_;
};

}  // namespace tangram
