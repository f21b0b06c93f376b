#pragma once
#include <span>
#include <vector>

#include "blocks/architecture.h"
#include "kernels/arena.h"

namespace tangram {

/// Keys and values of every layer for a set of sequences, in pages of `page_tokens` tokens. All layers use one page
/// numbering, and a page takes of each layer what that layer needs: nothing for `no_op` and `linear`.
class KvCache {
 public:
  /// A contiguous cache: one page of `tokens` tokens for each of `sequences` sequences.
  KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t tokens, DType dtype,
          Arena& arena);
  /// A paged one: `pages` pages in all; the caller hands them out through set_pages.
  KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t pages,
          int64_t page_tokens, int64_t pages_per_sequence, DType dtype, Arena& arena);

  /// Gives `pages` to a sequence, in order of position.
  void set_pages(int64_t sequence, std::span<const int32_t> pages);

  /// Lets the context's device know the pages that were set.
  void update(Context& ctx);

  LayerCache layer(int64_t index, Context& ctx);
  int64_t sequences() const { return static_cast<int64_t>(pages_.size()) / pages_per_sequence_; }
  int64_t capacity_tokens() const { return pages_per_sequence_ * page_tokens_; }

  /// Bytes of all layers for `tokens` cached tokens.
  static int64_t bytes(const Architecture& architecture, const ModelConfig& config, int64_t tokens, DType dtype);

 private:
  std::vector<KvPages> layers_;
  std::vector<int32_t> pages_;  // (sequences, pages_per_sequence)
  Tensor pages_copy_;           // of a GPU's cache, there
  bool copied_ = false;
  int64_t page_tokens_, pages_per_sequence_;
};

}  // namespace tangram
