#include "kernels/weight.h"

namespace tangram {

Weight stack_adjacent(std::span<const Weight>& list) {
  Weight stack = list.front();
  Tensor& all = stack.values;
  for (list = list.subspan(1); !list.empty(); list = list.subspan(1)) {
    const Tensor& next = list.front().values;
    const bool adjacent = all.contiguous() && next.contiguous() && all.cols == next.cols && all.dtype == next.dtype &&
                          list.front().layout == stack.layout &&
                          static_cast<char*>(all.data) + all.bytes() == next.data;
    if (!adjacent) break;
    all.rows += next.rows;
  }
  return stack;
}

}  // namespace tangram
