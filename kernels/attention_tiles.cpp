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
  const int64_t words = head.words(head.head_dim);
  for (int64_t row = 0; row < tile.rows; row += kTileRows) {
    const auto [begin, end] = tile.touched[row / kTileRows];
    if (begin < end)
      head.product(s + row * kTileStride + begin, kTileStride, a + row * head.padded, head.padded, 1, b + begin * words,
                   kPanelCols * words, words, std::min<int64_t>(kTileRows, tile.rows - row), end - begin, false);
  }
}

void tile_combine(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head) {
  const int64_t panel_b = head.words(kTileKeys) * head.panel;
  for (int64_t row = 0; row < tile.rows; row += kTileRows) {
    const Tile::Range range = tile.touched[row / kTileRows];
    const int64_t begin = range.begin / head.per_word, end = head.words(std::min(range.end, tile.keys));
    if (begin < end)  // b holds no words past those of the last key
      head.product(c + row * head.padded, head.padded, p + row * kTileStride + begin, kTileStride, 1,
                   b + begin * head.panel, panel_b, end - begin, std::min<int64_t>(kTileRows, tile.rows - row),
                   head.padded, true);
  }
}

void tile_scatter(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head) {
  const int64_t room = head.words(tile.rows);
  for (int64_t first = 0; first < tile.keys; first += kPanelCols) {
    // Causal order and the window make the rows that see these keys one run.
    int64_t begin = room, end = 0;
    for (int64_t row = 0; row < tile.rows; row += kTileRows) {
      const Tile::Range range = tile.touched[row / kTileRows];
      if (first < range.begin || first >= range.end) continue;
      begin = std::min(begin, row / head.per_word), end = head.words(std::min(row + kTileRows, tile.rows));
    }
    const int64_t last = std::min(first + kPanelCols, tile.keys);
    for (int64_t key = first; key < last && begin < end; key += kTileRows)
      head.product(c + key * head.padded, head.padded, p + begin * kTileStride + key, 1, kTileStride,
                   b + begin * head.panel, room * head.panel, end - begin, std::min<int64_t>(kTileRows, last - key),
                   head.padded, true);
  }
}

template <>
const float* tile_columns<float>(float*, float* p, const Tile&) {
  return p;
}

template <>
const float* tile_rows<float>(float*, float* p, const Tile&) {
  return p;
}

template <>
const float* tile_columns<bf16>(float* out, float* p, const Tile& tile) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    const auto [begin, end] = tile.touched[row / kTileRows];
    round_columns(out + row * kTileStride, p + row * kTileStride, begin, end);
  }
  return out;
}

template <>
const float* tile_rows<bf16>(float* out, float* p, const Tile& tile) {
  static_assert(kTileRows % 2 == 0, "the two rows of a word touch the same columns");
  for (int64_t row = 0; row < tile.rows; row += 2) {  // rising: word row / 2 may take the place of a row that is done
    const auto [begin, end] = tile.touched[row / kTileRows];
    const float* even = p + row * kTileStride;
    round_rows(out + row / 2 * kTileStride, even, row + 1 < tile.rows ? even + kTileStride : nullptr, begin, end);
  }
  return out;
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
    Lanes sum{};
    for (int64_t j = range.begin; j < range.end; j += kLanes) {
      for (int64_t i = j; i < j + kLanes; ++i) x[i] = fast_exp(x[i] * scale - new_max);
      sum += load(x + j);
    }
    m[row] = new_max;
    l[row] = l[row] * correction + lane_sum(sum);
    if (correction != 1)
      for (int64_t d = 0; d < head.padded; ++d) out[d] *= correction;
  }
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

int64_t check_offsets(Indices offsets, int64_t tokens) {
  if (offsets.span().empty() && !offsets.empty()) return tokens;
  CHECK(!offsets.empty() && offsets[0] == 0 && offsets[offsets.size() - 1] == tokens, "offsets must run from 0 to {}",
        tokens);
  int64_t longest = 0;
  for (size_t s = 1; s < offsets.size(); ++s) {
    CHECK(offsets[s] >= offsets[s - 1], "offsets fall from {} to {}", offsets[s - 1], offsets[s]);
    longest = std::max<int64_t>(longest, offsets[s] - offsets[s - 1]);
  }
  return longest;
}

}  // namespace tangram
