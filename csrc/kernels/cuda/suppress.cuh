// What the suppressing kernels share: the exact comparison, and greedy suppression within 64 boxes by their bit masks.
#pragma once

#include <cuda_runtime.h>

#include "kernels/nms.h"
#include "math/iou_threshold.h"

namespace retinanet_fast {

template <class C>
__device__ __forceinline__ bool overlaps(const math::IouThreshold<C>& threshold, const math::Box<C>& a, C area_a,
                                         const math::Box<C>& b, C area_b) {
  if (threshold.screened && !threshold.may_be_exceeded_by(a, area_a, b, area_b)) return false;
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
