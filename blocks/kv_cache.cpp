#include "blocks/kv_cache.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/transfer.h"

namespace tangram {
namespace {

constexpr int64_t kRingPage = 16;  // tokens

Cost attention_cost(const BlockChoice& block, const ModelConfig& config) {
  return block.attention.variant->cost({config, block.attention.size});
}

// Pages 0, 1, …, R - 1 of each sequence, then 0 again.
std::vector<int32_t> ring_pages(int64_t sequences, int64_t ring, int64_t pages_per_sequence) {
  std::vector<int32_t> pages;
  for (int64_t s = 0; s < sequences; ++s)
    for (int64_t i = 0; i < pages_per_sequence; ++i) pages.push_back(static_cast<int32_t>(s * ring + i % ring));
  return pages;
}

}  // namespace

KeptTokens kept_tokens(int64_t tokens, int64_t window) {
  const KeptTokens all{tokens, std::numeric_limits<int64_t>::max()};
  if (window >= tokens) return all;
  const int64_t at_once = round_up(ceil_div(window, 4), kRingPage), ring = round_up(window + at_once - 1, kRingPage);
  return ring < tokens ? KeptTokens{ring, ring - window + 1} : all;
}

KvCache::KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t tokens,
                 DType dtype, Arena& arena)
    : KvCache(tokens) {
  std::vector<int32_t> pages(static_cast<size_t>(sequences));
  std::iota(pages.begin(), pages.end(), 0);
  add_table(std::move(pages), 1, arena);
  for (const BlockChoice& block : architecture) {
    const Cost cost = attention_cost(block, config);
    const KeptTokens kept = kept_tokens(tokens, cost.kv_tokens_at_most);
    const bool is_ring = cost.kv_elements > 0 && kept.rows < tokens;
    add_layer(cost.kv_elements / 2, sequences * kept.rows, is_ring ? kRingPage : tokens, dtype, arena);
    if (!is_ring) continue;
    layers_.back().table = ring_table(sequences, tokens, kept.rows, arena);
    layers_.back().tokens_at_once = kept.tokens_at_once;
  }
}

KvCache::KvCache(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t pages,
                 int64_t page_tokens, int64_t pages_per_sequence, DType dtype, Arena& arena)
    : KvCache(page_tokens) {
  add_table(std::vector<int32_t>(static_cast<size_t>(sequences * pages_per_sequence), -1), pages_per_sequence, arena);
  for (const BlockChoice& block : architecture)
    add_layer(attention_cost(block, config).kv_elements / 2, pages * page_tokens, page_tokens, dtype, arena);
}

void KvCache::add_table(std::vector<int32_t> pages, int64_t pages_per_sequence, Arena& arena) {
  Table table{std::move(pages), pages_per_sequence, {}};
  if (arena.device() == Device::cuda) table.copy = arena.tensor(1, std::ssize(table.pages), DType::i32);
  tables_.push_back(std::move(table));
}

// The table of such rings: one for all layers of the same window.
size_t KvCache::ring_table(int64_t sequences, int64_t tokens, int64_t rows, Arena& arena) {
  const int64_t per_sequence = ceil_div(tokens, kRingPage);
  std::vector<int32_t> pages = ring_pages(sequences, rows / kRingPage, per_sequence);
  for (size_t t = 1; t < tables_.size(); ++t)
    if (tables_[t].pages == pages) return t;
  add_table(std::move(pages), per_sequence, arena);
  return tables_.size() - 1;
}

void KvCache::add_layer(int64_t width, int64_t rows, int64_t page_tokens, DType dtype, Arena& arena) {
  Layer layer{{.keys = {}, .values = {}, .page_tokens = page_tokens}, 0, std::numeric_limits<int64_t>::max()};
  if (width > 0) {
    layer.pages.keys = arena.tensor(rows, width, dtype);
    layer.pages.values = arena.tensor(rows, width, dtype);
  }
  layers_.push_back(layer);
}

void KvCache::set_pages(int64_t sequence, std::span<const int32_t> pages) {
  Table& table = tables_[0];
  CHECK(static_cast<int64_t>(pages.size()) <= table.pages_per_sequence, "{} pages for a sequence of at most {}",
        pages.size(), table.pages_per_sequence);
  std::copy(pages.begin(), pages.end(), table.pages.begin() + sequence * table.pages_per_sequence);
  copied_ = false;
}

void KvCache::update(Context& ctx) {
  if (!tables_[0].copy.data || std::exchange(copied_, true)) return;
  for (const Table& table : tables_) transfer(table.copy, view_of(table.pages.data(), 1, std::ssize(table.pages)), ctx);
}

LayerCache KvCache::layer(int64_t index, Context& ctx) {
  update(ctx);
  const Layer& layer = layers_.at(static_cast<size_t>(index));
  const Table& table = tables_[layer.table];
  const Indices pages = table.copy.data ? Indices(table.pages, table.copy) : Indices(table.pages);
  return {layer.pages, {pages, table.pages_per_sequence}, layer.tokens_at_once};
}

int64_t KvCache::bytes(const Architecture& architecture, const ModelConfig& config, int64_t sequences, int64_t tokens,
                       DType dtype) {
  int64_t elements = 0;
  for (const BlockChoice& block : architecture) {
    const Cost cost = attention_cost(block, config);
    if (cost.kv_elements > 0) elements += cost.kv_elements * kept_tokens(tokens, cost.kv_tokens_at_most).rows;
  }
  return sequences * elements * size_of(dtype);
}

}  // namespace tangram
