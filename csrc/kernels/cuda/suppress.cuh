// What the suppressing kernels share: the exact comparison, and masks of 64 boxes.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/nms_workspace.h"
#include "math/iou_threshold.h"

namespace retinanet_fast {

// threshold.may_be_exceeded_by() for a screened threshold, in fewer instructions: CUDA's own minimum and maximum take
// one each. They may drop a NaN that min2 and max2 keep, but then an area is NaN too, and with it the IoU.
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

// Bits that threads set together in shared memory, which has atomics of 32 bits; those of 64 are loops.
struct SharedBits {
  uint32_t halves[2];

  __device__ void add(MaskWord bits) {
    if (uint32_t(bits) != 0) atomicOr(&halves[0], uint32_t(bits));
    if (bits >> 32 != 0) atomicOr(&halves[1], uint32_t(bits >> 32));
  }
  __device__ void set(MaskWord bits) {
    halves[0] = uint32_t(bits);
    halves[1] = uint32_t(bits >> 32);
  }
  __device__ MaskWord get() const { return MaskWord(halves[1]) << 32 | halves[0]; }
};

// The number of bits of `mask` below `bit`.
__device__ __forceinline__ int bits_below(MaskWord mask, int bit) {
  return __popcll(mask & ((MaskWord(1) << bit) - 1));
}

}  // namespace retinanet_fast
