#pragma once
#include <algorithm>
#include <cstdint>

namespace tangram {

/// A walk over R neighbouring rows of a matrix side by side, a cache line of each at a step, so that what meets the
/// rows is loaded once for all of them. It asks memory for what comes a chunk of columns later, one row's part after
/// the other's: long runs are what memory gives fastest, and the hardware does not foresee R rows at once. Behind the
/// last chunk comes the first one of the next R rows.
template <int R, class T>
class RowWalk {
 public:
  static constexpr int64_t kStep = 64 / sizeof(T);  ///< elements of a cache line

  RowWalk(const T* rows, int64_t stride, int64_t cols)
      : rows_(rows), stride_(stride), whole_(cols / kStep * kStep), chunk_(std::min(kChunk, whole_)) {
    if (chunk_ == whole_) rows_ += R * stride, chunk_ = 0;
    start_piece();
  }

  int64_t column() const { return column_; }
  bool more() const { return column_ < whole_; }
  void step() { column_ += kStep; }

  /// To be called R times a step.
  [[gnu::always_inline]] void prefetch() {
    __builtin_prefetch(ahead_, 0, kSecondLevel);
    ahead_ += kStep;
    if (ahead_ >= piece_end_) next_piece();
  }

 private:
  static constexpr int64_t kChunk = 4096 / sizeof(T);  // a page of each row
  static constexpr int kSecondLevel = 2;               // of cache, where a chunk of all rows fits

  void start_piece() {
    ahead_ = rows_ + row_ * stride_ + chunk_;
    piece_end_ = ahead_ + std::min(kChunk, whole_ - chunk_);
  }
  void next_piece() {
    if (++row_ == R) {
      row_ = 0;
      chunk_ += kChunk;
      if (chunk_ >= whole_) rows_ += R * stride_, chunk_ = 0;
    }
    start_piece();
  }

  const T* rows_;
  int64_t stride_, whole_, chunk_;
  int64_t row_ = 0, column_ = 0;
  const T *ahead_, *piece_end_;
};

}  // namespace tangram
