#include "blocks/kv_cache.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/transfer.h"

namespace tangram {

KvCache::KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t tokens,
                 DType dtype, Arena& arena)
    : KvCache(architecture, config, sequences, sequences, tokens, 1, dtype, arena) {
  std::iota(pages_.begin(), pages_.end(), 0);
}

KvCache::KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t pages,
                 int64_t page_tokens, int64_t pages_per_sequence, DType dtype, Arena& arena)
    : pages_(static_cast<size_t>(sequences * pages_per_sequence), -1),
      page_tokens_(page_tokens),
      pages_per_sequence_(pages_per_sequence) {
  if (arena.device() == Device::cuda) pages_copy_ = arena.tensor(1, std::ssize(pages_), DType::i32);
  for (const BlockChoice& block : architecture) {
    const int64_t width = block.attention.variant->cost({config, block.attention.size}).kv_elements / 2;
    KvPages layer{.keys = {}, .values = {}, .page_tokens = page_tokens};
    if (width > 0) {
      layer.keys = arena.tensor(pages * page_tokens, width, dtype);
      layer.values = arena.tensor(pages * page_tokens, width, dtype);
    }
    layers_.push_back(layer);
  }
}

void KvCache::set_pages(int64_t sequence, std::span<const int32_t> pages) {
  CHECK(static_cast<int64_t>(pages.size()) <= pages_per_sequence_, "{} pages for a sequence of at most {}",
        pages.size(), pages_per_sequence_);
  std::copy(pages.begin(), pages.end(), pages_.begin() + sequence * pages_per_sequence_);
  copied_ = false;
}

void KvCache::update(Context& ctx) {
  if (!pages_copy_.data || std::exchange(copied_, true)) return;
  transfer(pages_copy_, view_of(pages_.data(), 1, std::ssize(pages_)), ctx);
}

LayerCache KvCache::layer(int64_t index, Context& ctx) {
  update(ctx);
  const Indices pages = pages_copy_.data ? Indices(pages_, pages_copy_) : Indices(pages_);
  return {layers_.at(static_cast<size_t>(index)), {pages, pages_per_sequence_}};
}

int64_t KvCache::bytes(const Architecture& architecture, const ModelConfig& config, int64_t tokens, DType dtype) {
  int64_t elements = 0;
  for (const BlockChoice& block : architecture)
    elements += block.attention.variant->cost({config, block.attention.size}).kv_elements;
  return elements * tokens * size_of(dtype);
}

}  // namespace tangram
