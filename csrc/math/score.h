// The sigmoid of a logit as a score: computed in double and rounded once to float, so that the CPU, CUDA and the eager
// twin agree on it and on every comparison of two scores.
#pragma once

#include "math/ordering.h"

namespace retinanet_fast::math {

// exp(x) for |x| < 700, within 2^-51; NaN for NaN.
RETINANET_FAST_INLINE double exp_wide(double x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^52 rounds to an integer, which the low bits then hold.
  constexpr double kRound = 6755399441055744.0;
  constexpr double kLn2High = 6.93147180369123816490e-01;  // with trailing zeros: n times it is exact
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  const double shifted = mul_exact(x, 1.44269504088896340736) + kRound;
  const double n = shifted - kRound;
  const double r = (x - mul_exact(n, kLn2High)) - mul_exact(n, kLn2Low);
  double y = 1.0 / 6227020800;  // Taylor's coefficients 1 / 13! ... 1 / 0!: |r|^14 / 14! < 2^-57
  y = mul_exact(y, r) + 1.0 / 479001600;
  y = mul_exact(y, r) + 1.0 / 39916800;
  y = mul_exact(y, r) + 1.0 / 3628800;
  y = mul_exact(y, r) + 1.0 / 362880;
  y = mul_exact(y, r) + 1.0 / 40320;
  y = mul_exact(y, r) + 1.0 / 5040;
  y = mul_exact(y, r) + 1.0 / 720;
  y = mul_exact(y, r) + 1.0 / 120;
  y = mul_exact(y, r) + 1.0 / 24;
  y = mul_exact(y, r) + 1.0 / 6;
  y = mul_exact(y, r) + 0.5;
  y = mul_exact(y, r) + 1.0;
  y = mul_exact(y, r) + 1.0;
  return y * bit_cast<double>((bit_cast<uint64_t>(shifted) << 52) + 0x3ff0000000000000u);
}

// 1 / (1 + exp(-x)), never falling as x rises: where two neighbouring floats round to different scores, their sigmoids
// differ by far more than the error in double.
RETINANET_FAST_INLINE float sigmoid_score(float x) {
  constexpr double kSaturated = 110.0;  // exp(-110) rounds to 0
  const double clamped = max2(-kSaturated, min2(kSaturated, double(x)));
  return float(1.0 / (1.0 + exp_wide(-clamped)));
}

// Floats as unsigned integers in the same order, from -inf to inf (NaN aside).
RETINANET_FAST_INLINE uint32_t ascending_key(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

RETINANET_FAST_INLINE float from_ascending_key(uint32_t key) {
  return bit_cast<float>(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The next float above x; inf and NaN stay.
RETINANET_FAST_INLINE float next_above(float x) {
  return x < std::numeric_limits<float>::infinity() ? from_ascending_key(ascending_key(x + 0.0f) + 1) : x;
}

// The lowest logit whose score is >= `score`; where there is none NaN, with which every comparison is false.
RETINANET_FAST_INLINE float lowest_logit_at_least(float score) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (!(1.0f >= score)) return std::numeric_limits<float>::quiet_NaN();
  if (0.0f >= score) return -kInfinity;
  uint32_t below = ascending_key(-kInfinity);
  uint32_t reached = ascending_key(kInfinity);
  while (reached - below > 1) {
    const uint32_t middle = below + (reached - below) / 2;
    if (sigmoid_score(from_ascending_key(middle)) >= score) {
      reached = middle;
    } else {
      below = middle;
    }
  }
  return from_ascending_key(reached);
}

// The score and index of a candidate as one integer, in the order of detections: score descending, then index
// ascending, so that a smaller key is better. (Scores are at least 0.)
RETINANET_FAST_INLINE uint64_t candidate_key(float logit, uint32_t index) {
  return uint64_t(~bit_cast<uint32_t>(sigmoid_score(logit))) << 32 | index;
}

RETINANET_FAST_INLINE float candidate_score(uint64_t key) { return bit_cast<float>(~uint32_t(key >> 32)); }
RETINANET_FAST_INLINE uint32_t candidate_index(uint64_t key) { return uint32_t(key); }

// Which candidates can still be among the best, decided exactly on logits, without computing their scores.
struct CandidateBound {
  float above;     // logits >= above have a higher score than the bound
  float equal;     // logits >= equal have at least its score,
  uint32_t index;  // and are better than it with a lower index

  RETINANET_FAST_INLINE bool admits(float logit, uint32_t candidate) const {
    return (logit >= above) | ((logit >= equal) & (candidate < index));
  }
};

// All logits with a score > threshold.
RETINANET_FAST_INLINE CandidateBound bound_by_threshold(float threshold) {
  const float lowest = lowest_logit_at_least(next_above(threshold));
  return {lowest, lowest, 0};
}

// All candidates better than the one with this key.
RETINANET_FAST_INLINE CandidateBound bound_by_candidate(uint64_t key) {
  const float score = candidate_score(key);
  return {lowest_logit_at_least(next_above(score)), lowest_logit_at_least(score), candidate_index(key)};
}

}  // namespace retinanet_fast::math
