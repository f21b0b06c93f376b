#include "kernels/least_squares.h"

#include <eigen3/Eigen/Cholesky>

namespace tangram {

using MatrixF32 = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using MapF32 = Eigen::Map<MatrixF32, 0, Eigen::OuterStride<>>;

static MapF32 map_of(Tensor t) { return {t.as<float>(), t.rows, t.cols, Eigen::OuterStride<>(t.stride)}; }

void solve_least_squares(Tensor z, Tensor a, Tensor b, double ridge, Context&) {
  CHECK(a.rows == a.cols && a.rows == b.rows && z.same_shape(b), "a ({}, {}), b ({}, {}), z ({}, {})", a.rows, a.cols,
        b.rows, b.cols, z.rows, z.cols);
  CHECK(a.dtype == DType::f32 && b.dtype == DType::f32 && z.dtype == DType::f32, "f32 only");
  if (a.rows == 0) return;
  const Eigen::MatrixXd moments = map_of(a).cast<double>();
  if (!moments.allFinite()) throw Error("least squares: the second moments are not finite");
  const double mean_diagonal = std::max(moments.diagonal().mean(), 1e-30);
  for (double r = ridge;; r *= 10) {
    Eigen::LLT<Eigen::MatrixXd> decomposition(moments + r * mean_diagonal * Eigen::MatrixXd::Identity(a.rows, a.rows));
    if (decomposition.info() != Eigen::Success) continue;
    map_of(z) = decomposition.solve(map_of(b).cast<double>()).cast<float>();
    return;
  }
}

}  // namespace tangram
