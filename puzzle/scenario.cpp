#include "puzzle/scenario.h"

namespace tangram {

DType dtype_of(Precision precision) {
  if (precision == Precision::f32) return DType::f32;
  if (precision == Precision::bf16) return DType::bf16;
  throw bad_input("Tangram's kernels do not compute in {}; allowed: f32, bf16", name_of(precision));
}

void check_runnable(const Scenario& s) {
  const std::string advice =
      "; it can be modelled: give hardware a description, such as h100-80gb, in place of this machine";
  if (s.precision != Precision::f32 && s.precision != Precision::bf16)
    throw bad_input("scenario {}: Tangram's kernels cannot run {} yet, so it cannot be measured{}", s.name,
                    name_of(s.precision), advice);
  if (s.kv_precision() != s.precision)
    throw bad_input("scenario {}: Tangram's kernels cannot run a {} KV cache with {} weights yet{}", s.name,
                    name_of(s.kv_precision()), name_of(s.precision), advice);
  if (s.tensor_parallel != 1)
    throw bad_input("scenario {}: tensor_parallel {} cannot be measured: it needs as many devices{}", s.name,
                    s.tensor_parallel, advice);
}

}  // namespace tangram
