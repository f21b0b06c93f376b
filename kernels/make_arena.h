#pragma once
#include "kernels/context.h"

namespace tangram {

/// Memory of the context's device; in planning a planner.
inline Arena make_arena(int64_t bytes, const Context& ctx) {
  return ctx.planning() ? Arena::planner(ctx.device) : Arena(bytes, ctx.device);
}

}  // namespace tangram
