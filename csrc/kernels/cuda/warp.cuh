// Reductions over a whole warp, all of whose lanes must take part.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common.h"

namespace retinanet_fast {

// Added in a tree of fixed shape; lane 0 gets the sum.
template <class C>
__device__ __forceinline__ C warp_sum(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}

// Every lane gets the largest (smallest) of all lanes' values; a NaN may get lost.
template <class C>
__device__ __forceinline__ C warp_max(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x = math::max2(__shfl_xor_sync(0xffffffffu, x, offset), x);
  return x;
}
// The same for numbers >= 0, whose bits are ordered like the numbers: one instruction from sm_80 on.
__device__ __forceinline__ double warp_max_of_bits(double x) { return warp_max(x); }
__device__ __forceinline__ float warp_max_of_bits(float x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  return __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(x)));
#else
  return warp_max(x);
#endif
}

template <class C>
__device__ __forceinline__ C warp_min(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x = math::min2(__shfl_xor_sync(0xffffffffu, x, offset), x);
  return x;
}

}  // namespace retinanet_fast
