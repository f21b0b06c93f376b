#include "nas/rank_speeds.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/peak.h"
#include "kernels/random.h"
#include "kernels/transfer.h"

namespace tangram {

constexpr double kNearlyTheSame = 0.85;
constexpr int kRepeats = 12;

std::vector<double> product_rates(Communicator& world, DType dtype, Context& ctx) {
  const int64_t size = ctx.device == Device::cuda ? 4096 : 512;  // some milliseconds each
  Arena arena(size * size * (2 * size_of(dtype) + size_of(DType::f32)) + 4096, ctx.device);
  const Tensor a = arena.tensor(size, size, dtype), b = arena.tensor(size, size, dtype);
  const Tensor c = arena.tensor(size, size, DType::f32);
  fill_for_measuring(a, 0, 1, 1, ctx), fill_for_measuring(b, 0, 1, 2, ctx);
  world.barrier();
  const double seconds = best_seconds(kRepeats, [&] {
    matmul(c, a, Transpose::no, b, Transpose::yes, false, ctx);
    synchronize(ctx);
  });
  std::vector<double> rates;
  for (const std::string& rate : world.gather(fmt::format("{}", 2.0 * double(size * size * size) / seconds)))
    rates.push_back(std::stod(rate));
  return rates;
}

std::vector<double> relative_speeds(std::span<const double> rates) {
  const double fastest = *std::max_element(rates.begin(), rates.end());
  std::vector<double> speeds;
  for (const double rate : rates) speeds.push_back(rate >= kNearlyTheSame * fastest ? 1 : rate / fastest);
  return speeds;
}

}  // namespace tangram
