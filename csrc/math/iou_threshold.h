// iou > threshold, where the IoU is a C and the threshold a double.
#pragma once

#include "math/box.h"

namespace retinanet_fast::math {

// The largest C that is <= x (a NaN stays one): for every iou of type C, iou > x exactly when iou > floor_to<C>(x).
template <class C>
RETINANET_FAST_INLINE C floor_to(double x);

template <>
RETINANET_FAST_INLINE double floor_to<double>(double x) {
  return x;
}

template <>
RETINANET_FAST_INLINE float floor_to<float>(double x) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kMax = std::numeric_limits<float>::max();
  if (x == kInfinity) return kInfinity;
  if (x >= kMax) return kMax;
  if (x < -double(kMax)) return -kInfinity;
  float nearest = float(x);
  if (double(nearest) > x) {  // the next float below
    const uint32_t bits = bit_cast<uint32_t>(nearest);
    nearest = bit_cast<float>(nearest > 0 ? bits - 1 : nearest < 0 ? bits + 1 : 0x80000001u);
  }
  return nearest;
}

// Divisions are slow and rarely needed: inter >= low * union_ holds for every pair with iou > threshold >= 0, since low
// is below the threshold by more than the roundings of both sides, so only pairs for which it holds need the division.
template <class C>
struct IouThreshold {
  C value;
  C low;
  bool screened;  // false for a threshold below 0 or NaN

  RETINANET_FAST_INLINE explicit IouThreshold(double threshold)
      : value(floor_to<C>(threshold)), low(value * C(1 - 1e-6)), screened(value >= C(0)) {}

  // For a screened threshold: false only where exceeded_by() is false.
  RETINANET_FAST_INLINE bool may_be_exceeded_by(const Box<C>& a, C area_a, const Box<C>& b, C area_b) const {
    const C inter = intersection(a, b);
    return (inter > C(0)) & (inter >= low * (area_a + area_b - inter));
  }

  RETINANET_FAST_INLINE bool exceeded_by(const Box<C>& a, C area_a, const Box<C>& b, C area_b) const {
    return iou(a, area_a, b, area_b) > value;
  }
};

}  // namespace retinanet_fast::math
