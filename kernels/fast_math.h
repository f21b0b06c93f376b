#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace tangram {

/// e^x within 1 ulp of f32, without a branch, so that a loop over it becomes vector code (std::exp stays a call).
///
///   n = round(x / ln 2)     e^x = 2^n e^r     r = x - n ln 2, |r| <= ln 2 / 2
///
/// 0 below -87.68, where the result leaves the normal numbers, and infinity above 88.37; NaN stays NaN.
inline float fast_exp(float x) {
  constexpr float kLog2e = 0x1.715476p+0f;
  constexpr float kLn2 = 0x1.62e43p-1f, kLn2Rest = -0x1.05c61p-29f;  // their sum is ln 2 to 48 bits
  constexpr float kRound = 0x1.8p+23f + 127;  // adding it leaves round(x) + 127, the exponent field, in the low bits
  x = x > 89.0f ? 89.0f : x;                  // n = 128 is the exponent field of infinity
  x = x < -88.0f ? -88.0f : x;                // n = -127 is that of zero
  const float shifted = std::fma(x, kLog2e, kRound), n = shifted - kRound;
  const float r = std::fma(n, -kLn2Rest, std::fma(n, -kLn2, x));
  // Minimax for the relative error (4e-9) with the first two coefficients held at 1.
  float p = 0.00138145394f;
  p = std::fma(p, r, 0.00836874545f);
  p = std::fma(p, r, 0.041668389f);
  p = std::fma(p, r, 0.166665211f);
  p = std::fma(p, r, 0.49999994f);
  p = std::fma(p, r, 1.0f);
  p = std::fma(p, r, 1.0f);
  return p * std::bit_cast<float>(std::bit_cast<uint32_t>(shifted) << 23);
}

/// 1 / (1 + e^-x), within 3 ulp down to x = -87.
inline float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/// sqrt(x) within 1 ulp for finite x: 0 for 0, and for subnormal x something below 2e-19. std::sqrt in a loop stays a
/// call because of errno.
inline float fast_sqrt(float x) {
  float y = std::bit_cast<float>(0x5f3759dfu - (std::bit_cast<uint32_t>(x) >> 1));  // x^-1/2 within 4 %
  const float half = 0.5f * x;
  y *= std::fma(-half * y, y, 1.5f);
  y *= std::fma(-half * y, y, 1.5f);
  const float root = x * y;
  return std::fma(std::fma(-root, root, x), 0.5f * y, root);
}

}  // namespace tangram
