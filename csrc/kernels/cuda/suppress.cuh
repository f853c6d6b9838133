// What the suppressing kernels share: the exact comparison, and greedy suppression within 64 boxes by their bit masks.
#pragma once

#include <cuda_runtime.h>

#include "kernels/nms.h"
#include "math/iou_threshold.h"

namespace retinanet_fast {

// As threshold.may_be_exceeded_by, for a screened threshold, in fewer instructions: CUDA's own minimum and maximum take
// one each. Where they drop a NaN that min2 and max2 keep, an area is NaN too, and so the IoU.
template <class C>
__device__ __forceinline__ bool may_overlap(const math::IouThreshold<C>& threshold, const math::Box<C>& a, C area_a,
                                            const math::Box<C>& b, C area_b) {
  const C width = fmin(a.x2, b.x2) - fmax(a.x1, b.x1);
  const C height = fmin(a.y2, b.y2) - fmax(a.y1, b.y1);
  const C inter = math::mul_exact(width, height);
  return (width > C(0)) & (height > C(0)) & (inter >= threshold.low * (area_a + area_b - inter));
}

template <class C>
__device__ __forceinline__ bool overlaps(const math::IouThreshold<C>& threshold, const math::Box<C>& a, C area_a,
                                         const math::Box<C>& b, C area_b) {
  if (threshold.screened && !may_overlap(threshold, a, area_a, b, area_b)) return false;
  return threshold.exceeded_by(a, area_a, b, area_b);
}

// The kept ones of up to 64 candidates in order: each that is kept clears those that its mask names.
__device__ __forceinline__ MaskWord resolve(MaskWord candidates, const MaskWord* masks) {
  MaskWord kept = 0;
  while (candidates != 0) {
    const int first = __ffsll(static_cast<long long>(candidates)) - 1;
    kept |= MaskWord(1) << first;
    candidates &= ~(masks[first] | MaskWord(1) << first);
  }
  return kept;
}

// The number of bits of `mask` below `bit`.
__device__ __forceinline__ int bits_below(MaskWord mask, int bit) {
  return __popcll(mask & ((MaskWord(1) << bit) - 1));
}

}  // namespace retinanet_fast
