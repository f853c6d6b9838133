// The categorical focal loss of one row of logits with the class t, and its derivatives.
//
//   p = softmax(x), m = 1 - p_t, n = -log p_t, loss = m^gamma n
#pragma once

#include "math/elementary.h"
#include "math/platform.h"

namespace retinanet_fast::math {

#if defined(__CUDA_ARCH__)
RETINANET_FAST_INLINE float log_of(float x) { return logf(x); }
RETINANET_FAST_INLINE float log1p_of(float x) { return log1pf(x); }
RETINANET_FAST_INLINE float pow_of(float x, float y) { return powf(x, y); }
#else
// The host's float versions, over which loops vectorise: log(x) and log(1 + x) for x > 0, x^y for x in [0, 1], y >= 0.
RETINANET_FAST_INLINE float log_of(float x) { return log_positive(x); }
RETINANET_FAST_INLINE float log1p_of(float x) {
  const float small = add_log1p_unit(0.0f, min2(1.0f, x));
  const float large = log_positive(1.0f + x);
  return x > 1.0f ? large : small;
}
RETINANET_FAST_INLINE float pow_of(float x, float y) {
  return exp_nonpositive(y * log_positive(max2(std::numeric_limits<float>::min(), x)));
}
#endif
RETINANET_FAST_INLINE double log_of(double x) { return log(x); }
RETINANET_FAST_INLINE double log1p_of(double x) { return log1p(x); }
RETINANET_FAST_INLINE double pow_of(double x, double y) { return pow(x, y); }

// A row's loss, and what its derivatives are made of. With `top` the largest logit of the row:
//   d loss / d x_t = -slope,  d loss / d x_j = slope_others exp(x_j - top) for j != t
template <class T>
struct SoftmaxFocalRow {
  T loss;
  T slope;
  T slope_others;
};

// target = x_t - top <= 0, others = sum of exp(x_j - top) over j != t. m comes from `others`, not from 1 - p_t, and so
// keeps its precision where p_t is close to 1. The derivatives are arranged without m^(gamma - 1), which may be
// infinite at m = 0.
template <class T>
RETINANET_FAST_INLINE SoftmaxFocalRow<T> softmax_focal_row(T target, T others, T gamma) {
  const T exp_target = exp_nonpositive(target);
  const T total = exp_target + others;
  const T p = exp_target / total;
  const T m = others / total;
  const T n = target == T(0) ? log1p_of(others) : log_of(total) - target;
  const T power = pow_of(m, gamma);
  // d n / d x_t = -m,  d m / d x_t = -p m;  d n / d x_j = p_j,  d m / d x_j = p p_j,  p_j / m = exp(x_j - top) / others
  const T slope = power * (m + (gamma == T(0) ? T(0) : gamma * n * p));
  return {power * n, slope, slope / max2(std::numeric_limits<T>::min(), others)};
}

}  // namespace retinanet_fast::math
