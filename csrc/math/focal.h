// The sigmoid focal loss of one logit, and its derivatives (Lin et al., https://arxiv.org/abs/1708.02002).
//
//   p = sigmoid(x), ce = -t log p - (1 - t) log(1 - p), p_t = p t + (1 - p) (1 - t)
//   loss = a_t (1 - p_t)^gamma ce
//
// No difference of close numbers is taken: 1 - p is sigmoid(-x), -log(1 - p) is softplus(x), and both come from
// exp(-|x|), so that the results are finite and accurate for every finite x.
#pragma once

#include "math/elementary.h"
#include "math/platform.h"

namespace retinanet_fast::math {

template <class T>
struct Logistic {
  T p;                  // sigmoid(x)
  T q;                  // 1 - p = sigmoid(-x)
  T softplus;           // log(1 + exp(x)) = -log q
  T softplus_opposite;  // log(1 + exp(-x)) = -log p
};

template <class T>
RETINANET_FAST_INLINE Logistic<T> logistic(T x) {
  const T e = exp_of_negative_abs(x);
  const T larger = reciprocal(T(1) + e);
  const T smaller = e * larger;
  const bool positive = x > T(0);
  return {
      .p = positive ? larger : smaller,
      .q = positive ? smaller : larger,
      // NaN where x is NaN: on CUDA through e, on the host through the positive part.
      .softplus = add_log1p_unit(positive_part(x), e),
      .softplus_opposite = add_log1p_unit(positive_part(-x), e),
  };
}

// The same for a background element whose results are rounded to S. On CUDA q is computed as 1 - p, with an absolute
// error of 6e-8: enough, since q only occurs in a term that is added to p, and an eighth fewer instructions, which are
// what limits 16-bit logits.
template <class S, class T>
RETINANET_FAST_INLINE Logistic<T> background_logistic(T x) {
  return logistic(x);
}

#if defined(RETINANET_FAST_CUDA_FORMULAS)
template <class S>
RETINANET_FAST_INLINE Logistic<float> background_logistic(float x) {
  const float p = reciprocal(1.0f + exp_approx(-x));
  const float q = 1.0f - p;
  const float smaller = fminf(p, q);  // NaN where x is NaN
  return {
      .p = p,
      .q = q,
      .softplus = subtract_log1m_half<S>(positive_part(x), smaller),
      .softplus_opposite = subtract_log1m_half<S>(positive_part(-x), smaller),
  };
}
#endif

// ---- the exponent gamma: a policy, so that the usual 2 costs a product and no exponential -----------------------

template <class T>
struct GammaTwo {
  RETINANET_FAST_INLINE T value() const { return T(2); }
  // p^gamma
  RETINANET_FAST_INLINE T power(const Logistic<T>& s) const { return s.p * s.p; }
  // m^gamma, and m^(gamma - 1) y
  RETINANET_FAST_INLINE T power(T m) const { return m * m; }
  RETINANET_FAST_INLINE T power_less_one(T m, T, T y) const { return m * y; }
};

// Any finite gamma >= 0.
template <class T>
struct AnyGamma {
  T gamma;

  RETINANET_FAST_INLINE T value() const { return gamma; }
  // p^gamma = exp(gamma log p). The bound keeps gamma = 0 from making 0 * inf at x = -inf.
  RETINANET_FAST_INLINE T power(const Logistic<T>& s) const {
    return exp_nonpositive(-gamma * min2(T(1e30), s.softplus_opposite));
  }
  // NaN for m < 0, as pow() has it for a gamma that is no integer.
  RETINANET_FAST_INLINE T power(T m) const {
    const T power = exp_nonpositive(gamma * log_positive(max2(floor(), m)));
    return m < T(0) ? std::numeric_limits<T>::quiet_NaN() : power;
  }
  // `y` is at most of the order of m, so y / m stays finite for m -> 0; m^(gamma - 1) would not for gamma < 1.
  RETINANET_FAST_INLINE T power_less_one(T m, T power, T y) const { return power * (y / max2(floor(), m)); }

 private:
  static RETINANET_FAST_INLINE T floor() { return std::numeric_limits<T>::min(); }
};

// Calls f with the policy for `gamma`.
template <class T, class F>
RETINANET_FAST_HOST_INLINE auto dispatch_gamma(double gamma, F&& f) {
  return gamma == 2 ? f(GammaTwo<T>{}) : f(AnyGamma<T>{T(gamma)});
}

// ---- hard targets: an element is background (t = 0) or foreground (t = 1) ---------------------------------------

template <class T>
struct FocalTerm {
  T loss;
  T grad;  // d loss / d x
};

// t = 0: weight p^gamma softplus(x). The weight multiplies the power, which loss and derivative share. The term of a
// foreground element, t = 1, is that of -x with its derivative negated. S is the type that results are rounded to.
template <class S = double, class T, class Gamma>
RETINANET_FAST_INLINE FocalTerm<T> focal_background(T x, const Gamma& gamma, T weight) {
  const Logistic<T> s = background_logistic<S>(x);
  const T power = weight * gamma.power(s);
  return {
      .loss = power * s.softplus,
      // d p^gamma / dx = gamma p^gamma q,  d softplus / dx = p
      .grad = power * multiply_add(gamma.value() * s.q, s.softplus, s.p),
  };
}

// The weight a_t of background and foreground, times the scale of all losses. A negative alpha: no weighting.
template <class T>
struct FocalWeights {
  T background;
  T foreground;
};

template <class T>
RETINANET_FAST_INLINE FocalWeights<T> focal_weights(double alpha, double scale) {
  if (alpha < 0) return {T(scale), T(scale)};
  return {T((1 - alpha) * scale), T(alpha * scale)};
}

// ---- soft targets: t anywhere in [0, 1] ------------------------------------------------------------------------

template <class T>
struct SoftFocalTerm {
  T loss;
  T grad_logit;   // d loss / d x
  T grad_target;  // d loss / d t
};

// a_t = weights.foreground t + weights.background (1 - t).
template <class T, class Gamma>
RETINANET_FAST_INLINE SoftFocalTerm<T> focal_soft(T x, T t, const FocalWeights<T>& weights, const Gamma& gamma) {
  const Logistic<T> s = logistic(x);
  const T u = T(1) - t;
  const T a = multiply_add(weights.foreground, t, weights.background * u);
  const T ce = multiply_add(t, s.softplus_opposite, u * s.softplus);
  const T m = multiply_add(s.q, t, s.p * u);  // 1 - p_t
  const T power = gamma.power(m);
  // m >= min(p, q) >= p q, and m is at least of the order of ce / (1 + |x|): both quotients by m stay bounded.
  const T slope_logit = gamma.power_less_one(m, power, s.p * s.q);
  const T slope_target = gamma.power_less_one(m, power, ce);
  return {
      .loss = a * power * ce,
      // d ce / dx = p - t = p u - q t,  d m^gamma / dx = gamma m^(gamma-1) p q (1 - 2t)
      .grad_logit = a * multiply_add(power, s.p * u - s.q * t, gamma.value() * slope_logit * (u - t) * ce),
      // d a / dt = foreground - background,  d ce / dt = -x,  d m^gamma / dt = gamma m^(gamma-1) (q - p)
      .grad_target = multiply_add((weights.foreground - weights.background) * power, ce,
                                  a * (gamma.value() * slope_target * (s.q - s.p) - power * x)),
  };
}

}  // namespace retinanet_fast::math
