// exp and log for float: on the host branch-free, so that loops over them vectorise at every x86-64 level, and on CUDA
// in as few instructions as the error allows. For double the library's own.
//
// Errors are relative and include rounding; the polynomials minimise the largest relative error.
#pragma once

#include "math/platform.h"
#include "math/scalar.h"

// CUDA has formulas of its own; a host compiler takes them where it is told to.
#if defined(__CUDA_ARCH__) && !defined(RETINANET_FAST_CUDA_FORMULAS)
#define RETINANET_FAST_CUDA_FORMULAS 1
#endif

namespace retinanet_fast::math {

// a * b + c where the result need not have the same bits everywhere: fused where the machine can do so.
RETINANET_FAST_INLINE float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

RETINANET_FAST_INLINE double multiply_add(double a, double b, double c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// 1 / x for x in [1, 2^126).
RETINANET_FAST_INLINE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float result;  // one instruction, 1 ulp
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}
RETINANET_FAST_INLINE double reciprocal(double x) { return 1.0 / x; }

// -|x|; on the host a bit operation, not a selection.
RETINANET_FAST_INLINE float negative_abs(float x) {
#if defined(__CUDA_ARCH__)
  return -fabsf(x);
#else
  return bit_cast<float>(bit_cast<uint32_t>(x) | 0x80000000u);
#endif
}
RETINANET_FAST_INLINE double negative_abs(double x) { return -fabs(x); }

// max(x, 0): one instruction on CUDA, where a NaN becomes 0 too.
RETINANET_FAST_INLINE float positive_part(float x) {
#if defined(__CUDA_ARCH__)
  return fmaxf(x, 0.0f);
#else
  return max2(0.0f, x);
#endif
}
RETINANET_FAST_INLINE double positive_part(double x) { return max2(0.0, x); }

// x, its sign flipped where `by` is negative.
RETINANET_FAST_INLINE float flip_sign(float x, float by) {
  return bit_cast<float>(bit_cast<uint32_t>(x) ^ (bit_cast<uint32_t>(by) & 0x80000000u));
}
RETINANET_FAST_INLINE double flip_sign(double x, double by) {
  return bit_cast<double>(bit_cast<uint64_t>(x) ^ (bit_cast<uint64_t>(by) & 0x8000000000000000u));
}

#if !defined(__CUDA_ARCH__)
// exp(x) for x in [-88, 0], with 0 for results that would be subnormal.
RETINANET_FAST_INLINE float exp_clamped(float x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer, which the low bits then hold; for
  // x = -88 n is -127, and 2^n below becomes 0.
  constexpr float kInverseLn2 = 1.44269504f;
  constexpr float kRound = 12582912.0f;
  const float shifted = multiply_add(x, kInverseLn2, kRound);
  const float r = multiply_add(shifted - kRound, -0.693147181f, x);
  float y = 0.00829765507f;
  y = multiply_add(y, r, 0.0419153820f);
  y = multiply_add(y, r, 0.166675747f);
  y = multiply_add(y, r, 0.499988949f);
  y = multiply_add(y, r, 0.999999692f);
  y = multiply_add(y, r, 1.00000007f);
  return y * bit_cast<float>((bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
}
#endif

// exp(x) for x <= 0, with 0 for results that would be subnormal; NaN for NaN. Within 3e-7; on CUDA, and on CPUs
// without fused multiply-add, within 3e-7 + 6e-8 |x|, which is 1e-6 at x = -12.
RETINANET_FAST_INLINE float exp_nonpositive(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x * 1.44269504f));
  return result;
#else
  return exp_clamped(max2(-88.0f, x));
#endif
}
RETINANET_FAST_INLINE double exp_nonpositive(double x) { return exp(x); }

// exp(x) for any x; NaN for NaN. On the host within 1e-7, subnormal results aside.
RETINANET_FAST_INLINE float exp_any(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  constexpr float kLowest = -104.0f, kHighest = 89.0f;  // beyond, the result is 0 or infinite
  constexpr float kInverseLn2 = 1.44269504f;
  constexpr float kRound = 12582912.0f;
  constexpr float kLn2High = 0.693359375f;  // few bits, so that products with n are exact
  constexpr float kLn2Low = -2.12194440e-4f;
  const float bounded = max2(kLowest, min2(kHighest, x));
  const float n = multiply_add(bounded, kInverseLn2, kRound) - kRound;
  const float r = multiply_add(n, -kLn2Low, multiply_add(n, -kLn2High, bounded));
  float y = 0.0013814467f;  // (exp(r) - 1 - r) / r^2
  y = multiply_add(y, r, 0.008368781f);
  y = multiply_add(y, r, 0.041668393f);
  y = multiply_add(y, r, 0.1666652f);
  y = multiply_add(y, r, 0.49999994f);
  y = multiply_add(y, r * r, r) + 1.0f;
  // 2^n may be out of range where the result is not.
  const int32_t exponent = int32_t(n);
  const int32_t half = exponent >> 1;
  const float scale = bit_cast<float>(uint32_t(half + 127) << 23);
  return y * scale * bit_cast<float>(uint32_t(exponent - half + 127) << 23);
#endif
}
RETINANET_FAST_INLINE double exp_any(double x) { return exp(x); }

// exp(-|x|) as exp_nonpositive gives it; anything for NaN. On the host the bound is an integer minimum, which vector
// code has in one instruction where a selection takes two.
RETINANET_FAST_INLINE float exp_of_negative_abs(float x) {
#if defined(__CUDA_ARCH__)
  return exp_nonpositive(negative_abs(x));
#else
  return exp_clamped(bit_cast<float>(min2(bit_cast<uint32_t>(negative_abs(x)), bit_cast<uint32_t>(-88.0f))));
#endif
}
RETINANET_FAST_INLINE double exp_of_negative_abs(double x) { return exp(-fabs(x)); }

// y + log(1 + x) for x in [0, 1]; the logarithm is within 3e-7, also where x is tiny.
RETINANET_FAST_INLINE float add_log1p_unit(float y, float x) {
  float ratio = -0.00853920802f;  // log(1 + x) / x
  ratio = multiply_add(ratio, x, 0.0440896299f);
  ratio = multiply_add(ratio, x, -0.107681710f);
  ratio = multiply_add(ratio, x, 0.177452413f);
  ratio = multiply_add(ratio, x, -0.244954628f);
  ratio = multiply_add(ratio, x, 0.332754798f);
  ratio = multiply_add(ratio, x, -0.499974054f);
  ratio = multiply_add(ratio, x, 0.999999806f);
  return multiply_add(ratio, x, y);
}
RETINANET_FAST_INLINE double add_log1p_unit(double y, double x) { return y + log1p(x); }

#if defined(RETINANET_FAST_CUDA_FORMULAS)
// exp(x) for any x, as precise as exp_nonpositive; infinite beyond the range.
RETINANET_FAST_INLINE float exp_approx(float x) {
#if defined(__CUDA_ARCH__)
  return exp_nonpositive(x);
#else
  return exp(x);
#endif
}

// y - log(1 - x) for x in [0, 1/2]. The logarithm is within 3e-7, also where x is tiny; where results are rounded to a
// 16-bit type S, within 1.1e-6.
template <class S>
RETINANET_FAST_INLINE float subtract_log1m_half(float y, float x) {
  float ratio;  // -log(1 - x) / x
  if constexpr (sizeof(S) == 2) {
    ratio = 0.990582168f;
    ratio = multiply_add(ratio, x, -0.637921810f);
    ratio = multiply_add(ratio, x, 0.522745371f);
    ratio = multiply_add(ratio, x, 0.187532350f);
    ratio = multiply_add(ratio, x, 0.338911027f);
    ratio = multiply_add(ratio, x, 0.499816746f);
    ratio = multiply_add(ratio, x, 1.00000095f);
  } else {
    ratio = 1.18493116f;
    ratio = multiply_add(ratio, x, -1.08153963f);
    ratio = multiply_add(ratio, x, 0.785430670f);
    ratio = multiply_add(ratio, x, 0.0380181856f);
    ratio = multiply_add(ratio, x, 0.272250503f);
    ratio = multiply_add(ratio, x, 0.331862628f);
    ratio = multiply_add(ratio, x, 0.500036538f);
    ratio = multiply_add(ratio, x, 0.999999881f);
  }
  return multiply_add(ratio, x, y);
}
#endif

// log(x) for normal x > 0, within 2e-7 (CUDA: an absolute 3e-7 near x = 1); NaN for NaN.
RETINANET_FAST_INLINE float log_positive(float x) {
#if defined(__CUDA_ARCH__)
  return __logf(x);
#else
  // x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
  constexpr float kLn2 = 0.693147181f;
  constexpr uint32_t kSqrtHalf = 0x3f3504f3u;
  const uint32_t bits = bit_cast<uint32_t>(x);
  const int32_t n = int32_t(bits - kSqrtHalf) >> 23;
  const float f = bit_cast<float>(bits - (uint32_t(n) << 23)) - 1.0f;
  float y = 0.0872235908f;
  y = multiply_add(y, f, -0.143668448f);
  y = multiply_add(y, f, 0.149522662f);
  y = multiply_add(y, f, -0.165623928f);
  y = multiply_add(y, f, 0.199568336f);
  y = multiply_add(y, f, -0.250020741f);
  y = multiply_add(y, f, 0.333341856f);
  y = multiply_add(y, f, -0.49999988f);
  y = multiply_add(y, f, 0.999999974f);
  const float result = multiply_add(float(n), kLn2, f * y);
  return x != x ? x : result;
#endif
}
RETINANET_FAST_INLINE double log_positive(double x) { return log(x); }

// log(x) for any x: as log_positive for normal x, -infinity for 0, NaN below. On CUDA the library's own.
RETINANET_FAST_INLINE float log_any(float x) {
#if defined(__CUDA_ARCH__)
  return logf(x);
#else
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kLift = 8388608.0f, kLogLift = 15.9423847f;  // 2^23, for subnormals
  const bool subnormal = x < std::numeric_limits<float>::min();
  const float finite = log_positive(subnormal ? x * kLift : x) - (subnormal ? kLogLift : 0.0f);
  const float below = x == 0.0f ? -kInfinity : std::numeric_limits<float>::quiet_NaN();
  return x > 0.0f ? (x < kInfinity ? finite : kInfinity) : below;
#endif
}
RETINANET_FAST_INLINE double log_any(double x) { return log(x); }

}  // namespace retinanet_fast::math
