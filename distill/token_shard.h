#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tangram {

/// Packed text: S sequences of exactly T tokens, each cut into segments that belong to different documents. Attention
/// stays inside a segment, and positions count from its start.
///
/// A document of n tokens is n - 1 inputs, each with the next token as its target; so every token of a shard has a
/// target, and it lies in the same document. Where a sequence is full the document goes on in the next one, as a
/// segment of its own: no token is lost, repeated or padded.
///
/// A view: `memory` owns what the spans point to (vectors, or a mapped file).
struct TokenShard {
  std::string name;                 ///< for messages: the file
  int64_t sequence_length = 0;      ///< T
  std::span<const int32_t> tokens;  ///< (S, T)
  std::span<const int32_t>
      first_segment;  ///< (S + 1)  segments of sequence s: first_segment[s] to first_segment[s + 1]
  std::span<const int32_t> segment_length;  ///< (K)      tokens
  std::span<const int32_t> segment_next;    ///< (K)      the target of a segment's last token
  std::span<const float> weights;           ///< (S, T)   of each token's target in the loss; empty: all 1
  std::shared_ptr<const void> memory;

  int64_t sequences() const { return static_cast<int64_t>(tokens.size()) / sequence_length; }
};

/// Packs documents, one after another.
class TokenPacker {
 public:
  explicit TokenPacker(int64_t sequence_length);

  /// `weights`, if there are any, has one for each token, for when it is a target (so the first is not used). A
  /// document of fewer than two tokens adds nothing.
  void add(std::span<const int32_t> document, std::span<const float> weights = {});

  /// Full sequences so far.
  int64_t sequences() const { return static_cast<int64_t>(packed_.first_segment.size()) - 1; }

  /// Moves the full sequences out. What is left over, less than a sequence, begins the next shard.
  TokenShard take(std::string name);

 private:
  struct Packed {
    std::vector<int32_t> tokens, first_segment{0}, segment_length, segment_next;
    std::vector<float> weights;
  };
  int64_t sequence_length_;
  Packed packed_;
};

}  // namespace tangram
