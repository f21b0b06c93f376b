#pragma once
#include <span>
#include <vector>

#include "blocks/architecture.h"
#include "kernels/arena.h"

namespace tangram {

/// What a contiguous cache keeps of a sequence for one layer.
struct KeptTokens {
  int64_t rows;            ///< tokens that have a place
  int64_t tokens_at_once;  ///< new ones that may be written before attention looks at them
};

/// All `tokens` of a sequence; or where that takes less, a ring of the last ones, for a layer that never looks back at
/// more than `window` of them, the newest included. While c new tokens are written, the first of them still needs the
/// window - 1 before it, so a ring of R rows takes c at a time with
///
///   R >= window + c - 1,  c >= a quarter of the window,  R whole pages of 16 tokens
KeptTokens kept_tokens(int64_t tokens, int64_t window);

/// Keys and values of every layer for a set of sequences, in pages. A variant that caches nothing has none.
class KvCache {
 public:
  /// A contiguous cache of up to `tokens` tokens for each of `sequences` sequences: one page of each, or a ring of
  /// small ones (kept_tokens). A ring is a page table that names the same pages again and again: attention masks what
  /// lies before its window, and so never sees that newer tokens stand there.
  KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t tokens, DType dtype,
          Arena& arena);
  /// A paged one: `pages` pages of `page_tokens` tokens in all; the caller hands them out through set_pages. All layers
  /// use one page numbering, and every one keeps all tokens.
  KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t pages,
          int64_t page_tokens, int64_t pages_per_sequence, DType dtype, Arena& arena);

  /// Gives `pages` to a sequence, in order of position.
  void set_pages(int64_t sequence, std::span<const int32_t> pages);

  /// Lets the context's device know the pages that were set.
  void update(Context& ctx);

  LayerCache layer(int64_t index, Context& ctx);
  int64_t sequences() const { return std::ssize(tables_[0].pages) / tables_[0].pages_per_sequence; }
  int64_t capacity_tokens() const { return tables_[0].pages_per_sequence * page_tokens_; }

  /// Bytes of keys and values that a contiguous cache takes.
  static int64_t bytes(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t tokens,
                       DType dtype);

 private:
  struct Table {
    std::vector<int32_t> pages;  // (sequences, pages_per_sequence)
    int64_t pages_per_sequence;
    Tensor copy;  // of a GPU's cache, there
  };
  struct Layer {
    KvPages pages;
    size_t table;
    int64_t tokens_at_once;
  };
  explicit KvCache(int64_t page_tokens) : page_tokens_(page_tokens) {}
  void add_table(std::vector<int32_t> pages, int64_t pages_per_sequence, Arena& arena);
  size_t ring_table(int64_t sequences, int64_t tokens, int64_t rows, Arena& arena);
  void add_layer(int64_t width, int64_t rows, int64_t page_tokens, DType dtype, Arena& arena);

  std::vector<Table> tables_;  // the first is of the layers that keep all tokens
  std::vector<Layer> layers_;
  bool copied_ = false;
  int64_t page_tokens_;
};

}  // namespace tangram
