// Centre-size box coding (R-CNN, https://arxiv.org/abs/1311.2524, appendix C) and its derivatives.
//   encode: dx = wx (x - xa) / wa,  dw = ww ln(w / wa)      decode: x = xa + dx / wx wa,  w = wa exp(min(dw / ww, max))
// with (x, y) a box's centre, (w, h) its sides, and the subscript a for the anchor.
#pragma once

#include "math/box.h"
#include "math/elementary.h"

namespace retinanet_fast::math {

template <class T>
struct Deltas {
  T dx, dy, dw, dh;
};

template <class T>
struct CenterSize {
  T x, y, w, h;
};

template <class T>
struct BoxWeights {
  T x, y, w, h;

  explicit RETINANET_FAST_INLINE BoxWeights(const double (&weights)[4])
      : x(T(weights[0])), y(T(weights[1])), w(T(weights[2])), h(T(weights[3])) {}
};

template <class S>
RETINANET_FAST_INLINE Deltas<ComputeType<S>> load_deltas(const S* deltas) {
  return {load(deltas[0]), load(deltas[1]), load(deltas[2]), load(deltas[3])};
}

template <class S, class T>
RETINANET_FAST_INLINE void store_deltas(S* to, const Deltas<T>& deltas) {
  store(to[0], deltas.dx);
  store(to[1], deltas.dy);
  store(to[2], deltas.dw);
  store(to[3], deltas.dh);
}

template <class T>
RETINANET_FAST_INLINE CenterSize<T> center_size(const Box<T>& box) {
  const T w = box.x2 - box.x1;
  const T h = box.y2 - box.y1;
  return {box.x1 + T(0.5) * w, box.y1 + T(0.5) * h, w, h};
}

// The gradient with respect to a box's corners, from that for its centre and sides: x = (x1 + x2) / 2, w = x2 - x1.
template <class T>
RETINANET_FAST_INLINE Box<T> corners_gradient(const CenterSize<T>& grad) {
  return {T(0.5) * grad.x - grad.w, T(0.5) * grad.y - grad.h, T(0.5) * grad.x + grad.w, T(0.5) * grad.y + grad.h};
}

template <class T>
RETINANET_FAST_INLINE Deltas<T> encode(const Box<T>& box, const Box<T>& anchor, const BoxWeights<T>& weights) {
  const CenterSize<T> b = center_size(box);
  const CenterSize<T> a = center_size(anchor);
  return {weights.x * (b.x - a.x) / a.w, weights.y * (b.y - a.y) / a.h, weights.w * log_any(b.w / a.w),
          weights.h * log_any(b.h / a.h)};
}

template <class T>
RETINANET_FAST_INLINE void encode_backward(const Box<T>& box, const Box<T>& anchor, const BoxWeights<T>& weights,
                                           const Deltas<T>& upstream, Box<T>& grad_box, Box<T>& grad_anchor) {
  const CenterSize<T> b = center_size(box);
  const CenterSize<T> a = center_size(anchor);
  const T x = upstream.dx * weights.x / a.w;  // d dx / d x = wx / wa
  const T y = upstream.dy * weights.y / a.h;
  const T w = upstream.dw * weights.w;  // d dw / d ln w = ww
  const T h = upstream.dh * weights.h;
  grad_box = corners_gradient(CenterSize<T>{x, y, w / b.w, h / b.h});
  // d dx / d xa = -wx / wa,  d dx / d wa = -dx / wa,  d dw / d wa = -ww / wa
  grad_anchor = corners_gradient(CenterSize<T>{-x, -y, -(x * (b.x - a.x) + w) / a.w, -(y * (b.y - a.y) + h) / a.h});
}

// The decoded box, where the sides are scale_w and scale_h times the anchor's.
template <class T>
RETINANET_FAST_INLINE Box<T> decode_scaled(const Deltas<T>& deltas, const Box<T>& anchor, const BoxWeights<T>& weights,
                                           T scale_w, T scale_h) {
  const CenterSize<T> a = center_size(anchor);
  const T x = mul_exact(deltas.dx / weights.x, a.w) + a.x;
  const T y = mul_exact(deltas.dy / weights.y, a.h) + a.y;
  const T half_w = mul_exact(T(0.5), mul_exact(scale_w, a.w));
  const T half_h = mul_exact(T(0.5), mul_exact(scale_h, a.h));
  return {x - half_w, y - half_h, x + half_w, y + half_h};
}

// A NaN passes through the clamp here and through clip(), as it does through torch.clamp.
template <class T>
RETINANET_FAST_INLINE Box<T> decode(const Deltas<T>& deltas, const Box<T>& anchor, const BoxWeights<T>& weights,
                                    T max_log_scale) {
  return decode_scaled(deltas, anchor, weights, exp_any(min2(max_log_scale, deltas.dw / weights.w)),
                       exp_any(min2(max_log_scale, deltas.dh / weights.h)));
}

template <class T>
RETINANET_FAST_INLINE Box<T> clip(const Box<T>& box, T height, T width) {
  return {min2(width, max2(T(0), box.x1)), min2(height, max2(T(0), box.y1)), min2(width, max2(T(0), box.x2)),
          min2(height, max2(T(0), box.y2))};
}

// The gradient passes where the coordinate lies in [0, limit], ends included, as torch.clamp's does.
template <class T>
RETINANET_FAST_INLINE Box<T> clip_backward(const Box<T>& box, T height, T width, const Box<T>& upstream) {
  const auto pass = [](T value, T limit, T grad) { return value >= T(0) && value <= limit ? grad : T(0); };
  return {pass(box.x1, width, upstream.x1), pass(box.y1, height, upstream.y1), pass(box.x2, width, upstream.x2),
          pass(box.y2, height, upstream.y2)};
}

template <class T>
RETINANET_FAST_INLINE void decode_backward(const Deltas<T>& deltas, const Box<T>& anchor, const BoxWeights<T>& weights,
                                           T max_log_scale, const Box<T>& upstream, Deltas<T>& grad_deltas,
                                           Box<T>& grad_anchor) {
  const CenterSize<T> a = center_size(anchor);
  const T log_w = deltas.dw / weights.w;
  const T log_h = deltas.dh / weights.h;
  const T scale_w = exp_any(min2(max_log_scale, log_w));
  const T scale_h = exp_any(min2(max_log_scale, log_h));
  const T x = upstream.x1 + upstream.x2;  // x1 = x - w / 2, x2 = x + w / 2
  const T y = upstream.y1 + upstream.y2;
  const T w = T(0.5) * (upstream.x2 - upstream.x1);
  const T h = T(0.5) * (upstream.y2 - upstream.y1);
  // d x / d dx = wa / wx,  d w / d dw = w / ww below the clamp (and at it)
  grad_deltas = {x * a.w / weights.x, y * a.h / weights.y,
                 log_w <= max_log_scale ? w * scale_w * a.w / weights.w : T(0),
                 log_h <= max_log_scale ? h * scale_h * a.h / weights.h : T(0)};
  // d x / d xa = 1,  d x / d wa = dx / wx,  d w / d wa = exp(dw / ww)
  grad_anchor = corners_gradient(
      CenterSize<T>{x, y, x * deltas.dx / weights.x + w * scale_w, y * deltas.dy / weights.y + h * scale_h});
}

}  // namespace retinanet_fast::math
