#include "kernels/attention_tiles.h"

#include "kernels/fast_math.h"

namespace tangram {

namespace {
constexpr float kNever = -std::numeric_limits<float>::infinity();  // the score of a key that is not seen
}

Tile::Range Tile::seen(int64_t row, const HeadShape& head) const {
  const int64_t position = first_query + row / head.group;
  return {std::clamp<int64_t>(head.first_key(position) - first_key, 0, keys),
          std::clamp<int64_t>(position + 1 - first_key, 0, keys)};
}

void Tile::place(int64_t query, int64_t query_tokens, int64_t key, int64_t key_count, const HeadShape& head) {
  first_query = query, rows = query_tokens * head.group;
  first_key = key, keys = key_count;
  touched.clear();
  for (int64_t row = 0; row < rows; row += kTileRows) {
    const Range first = seen(row, head), last = seen(std::min(row + kTileRows, rows) - 1, head);
    const bool none = first.begin >= last.end;
    touched.push_back(none ? Range{0, 0}
                           : Range{first.begin / kPanelCols * kPanelCols, round_up(last.end, kPanelCols)});
  }
}

void tile_scores(float* s, const float* a, const float* b, const Tile& tile, const HeadShape& head) {
  for (int64_t key = 0; key < tile.keys; key += kPanelCols)
    for (int64_t row = 0; row < tile.rows; row += kTileRows) {
      const Tile::Range range = tile.touched[row / kTileRows];
      if (key < range.begin || key >= range.end) continue;
      tile_product(s + row * kTileStride + key, kTileStride, a + row * head.padded, head.padded, 1,
                   b + key * head.head_dim, head.head_dim, std::min<int64_t>(kTileRows, tile.rows - row), kPanelCols,
                   false);
    }
}

void tile_combine(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head) {
  for (int64_t col = 0; col < head.padded; col += head.panel)
    for (int64_t row = 0; row < tile.rows; row += kTileRows) {
      const auto [begin, end] = tile.touched[row / kTileRows];
      const int64_t last = std::min(end, tile.keys);  // b holds no rows past the last key
      if (begin >= last) continue;
      tile_product(c + row * head.padded + col, head.padded, p + row * kTileStride + begin, kTileStride, 1,
                   b + col * kTileKeys + begin * head.panel, last - begin,
                   std::min<int64_t>(kTileRows, tile.rows - row), head.panel, true);
    }
}

void tile_scatter(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head) {
  for (int64_t first = 0; first < tile.keys; first += kPanelCols) {
    // Causal order and the window make the rows that see these keys one run.
    int64_t begin = tile.rows, end = 0;
    for (int64_t row = 0; row < tile.rows; row += kTileRows) {
      const Tile::Range range = tile.touched[row / kTileRows];
      if (first < range.begin || first >= range.end) continue;
      begin = std::min(begin, row), end = std::min(row + kTileRows, tile.rows);
    }
    if (begin >= end) continue;
    const int64_t last = std::min(first + kPanelCols, tile.keys);
    for (int64_t key = first; key < last; key += kTileRows)
      for (int64_t col = 0; col < head.padded; col += head.panel)
        tile_product(c + key * head.padded + col, head.padded, p + begin * kTileStride + key, 1, kTileStride,
                     b + col * tile.rows + begin * head.panel, end - begin, std::min<int64_t>(kTileRows, last - key),
                     head.panel, true);
  }
}

void tile_mask(float* s, const Tile& tile, const HeadShape& head) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    const auto [touched_begin, touched_end] = tile.touched[row / kTileRows];
    if (touched_begin >= touched_end) continue;
    const Tile::Range seen = tile.seen(row, head);
    float* x = s + row * kTileStride;
    if (seen.empty()) {
      std::fill(x + touched_begin, x + touched_end, kNever);
    } else {
      std::fill(x + touched_begin, x + std::max(touched_begin, seen.begin), kNever);
      std::fill(x + std::min(touched_end, seen.end), x + touched_end, kNever);
    }
  }
}

void RunningSoftmax::start(int64_t rows, const HeadShape& head) {
  std::fill(m, m + rows, kNever);
  std::fill(l, l + rows, 0.0f);
  std::fill(c, c + rows * head.padded, 0.0f);
}

void RunningSoftmax::update(float* s, const Tile& tile, const HeadShape& head) {
  const float scale = head.scale;
  for (int64_t row = 0; row < tile.rows; ++row) {
    const Tile::Range range = tile.touched[row / kTileRows];
    if (range.empty()) continue;
    float *x = s + row * kTileStride, *out = c + row * head.padded;
    Lanes largest = load(x + range.begin);
    for (int64_t j = range.begin + kLanes; j < range.end; j += kLanes) largest = max(largest, load(x + j));
    const float tile_max = lane_max(largest) * scale;
    if (tile_max == kNever) {  // this row sees none of the columns that its neighbours see
      std::fill(x + range.begin, x + range.end, 0.0f);
      continue;
    }
    const float new_max = std::max(m[row], tile_max), correction = fast_exp(m[row] - new_max);
    for (int64_t j = range.begin; j < range.end; ++j) x[j] = fast_exp(x[j] * scale - new_max);
    Lanes sum{};
    for (int64_t j = range.begin; j < range.end; j += kLanes) sum += load(x + j);
    m[row] = new_max;
    l[row] = l[row] * correction + lane_sum(sum);
    if (correction != 1)
      for (int64_t d = 0; d < head.padded; ++d) out[d] *= correction;
  }
}

int64_t attend_floats(int64_t tokens, int64_t keys, const HeadShape& head) {
  const int64_t rows = head.block_rows(), most_keys = head.window < keys ? head.window + tokens + kTileKeys : keys;
  const int64_t slots = tokens <= head.block_tokens ? 1 : ceil_div(most_keys, kTileKeys);
  constexpr int64_t kTakes = 7;  // each may be rounded up
  return slots * kTileKeys * (head.head_dim + head.padded) + rows * (2 * head.padded + kTileStride + 2) +
         kTakes * kPanelCols;
}

void check_attention(const char* name, Tensor x, int64_t heads, const AttentionShape& shape, int64_t tokens,
                     DType dtype) {
  CHECK(shape.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.kv_heads == 0,
        "{} query heads over {} key/value heads", shape.heads, shape.kv_heads);
  CHECK(shape.head_dim > 0 && shape.window > 0, "head_dim {}, window {}", shape.head_dim, shape.window);
  CHECK(x.rows == tokens && x.cols == heads * shape.head_dim, "{} is ({}, {}), must be ({}, {} * {})", name, x.rows,
        x.cols, tokens, heads, shape.head_dim);
  CHECK(x.dtype == dtype && (dtype == DType::f32 || dtype == DType::bf16), "{} is {}; q, k, v, out must agree", name,
        name_of(x.dtype));
}

int64_t check_offsets(std::span<const int32_t> offsets, int64_t tokens) {
  CHECK(!offsets.empty() && offsets.front() == 0 && offsets.back() == tokens, "offsets must run from 0 to {}", tokens);
  int64_t longest = 0;
  for (size_t s = 1; s < offsets.size(); ++s) {
    CHECK(offsets[s] >= offsets[s - 1], "offsets fall from {} to {}", offsets[s - 1], offsets[s]);
    longest = std::max<int64_t>(longest, offsets[s] - offsets[s - 1]);
  }
  return longest;
}

}  // namespace tangram
