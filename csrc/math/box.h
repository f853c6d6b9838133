// Boxes as corners (x1, y1, x2, y2) in pixels: area, intersection over union and its gradient.
#pragma once

#include "math/platform.h"
#include "math/scalar.h"

namespace retinanet_fast::math {

// Aligned so that a box, or half a box of doubles, is one load.
template <class T>
struct alignas(16) Box {
  T x1, y1, x2, y2;
};

template <class S>
RETINANET_FAST_INLINE Box<ComputeType<S>> load_box(const S* corners) {
  return {load(corners[0]), load(corners[1]), load(corners[2]), load(corners[3])};
}

template <class S, class T>
RETINANET_FAST_INLINE void store_box(S* corners, const Box<T>& box) {
  store(corners[0], box.x1);
  store(corners[1], box.y1);
  store(corners[2], box.x2);
  store(corners[3], box.y2);
}

template <class T>
RETINANET_FAST_INLINE T area(const Box<T>& box) {
  return mul_exact(box.x2 - box.x1, box.y2 - box.y1);
}

template <class T>
RETINANET_FAST_INLINE T intersection(const Box<T>& a, const Box<T>& b) {
  const T width = max2(T(0), min2(a.x2, b.x2) - max2(a.x1, b.x1));
  const T height = max2(T(0), min2(a.y2, b.y2) - max2(a.y1, b.y1));
  return mul_exact(width, height);
}

// inter / (area_a + area_b - inter), in that order and never contracted: the same bits on every CPU level and on
// CUDA, so that thresholds and the equality test of the low-quality matching rule agree everywhere.
template <class T>
RETINANET_FAST_INLINE T iou(const Box<T>& a, T area_a, const Box<T>& b, T area_b) {
  const T inter = intersection(a, b);
  return inter / (area_a + area_b - inter);
}

// d max(a, b) / da; at a tie a and b share the gradient evenly, as in torch.maximum.
template <class T>
RETINANET_FAST_INLINE T max_share(T a, T b) {
  return a > b ? T(1) : (a == b ? T(0.5) : T(0));
}

// grad += upstream * d iou(a, b) / da. For the derivative with respect to b, exchange the boxes.
template <class T>
RETINANET_FAST_INLINE void iou_backward(const Box<T>& a, const Box<T>& b, T upstream, Box<T>& grad) {
  const T width = min2(a.x2, b.x2) - max2(a.x1, b.x1);
  const T height = min2(a.y2, b.y2) - max2(a.y1, b.y1);
  const T w = max2(T(0), width);
  const T h = max2(T(0), height);
  const T inter = w * h;
  const T union_ = area(a) + area(b) - inter;
  const T d_inter = upstream * (union_ + inter) / (union_ * union_);  // d (I / U) / d I, U = A + B - I
  const T d_area = -upstream * inter / (union_ * union_);             // d (I / U) / d A
  const T d_width = width >= T(0) ? d_inter * h : T(0);               // I = w h, w = clamp(width, 0)
  const T d_height = height >= T(0) ? d_inter * w : T(0);
  grad.x1 += -d_width * max_share(a.x1, b.x1) - d_area * (a.y2 - a.y1);
  grad.y1 += -d_height * max_share(a.y1, b.y1) - d_area * (a.x2 - a.x1);
  grad.x2 += d_width * max_share(b.x2, a.x2) + d_area * (a.y2 - a.y1);
  grad.y2 += d_height * max_share(b.y2, a.y2) + d_area * (a.x2 - a.x1);
}

}  // namespace retinanet_fast::math
