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
  for (int offset = 16; offset > 0; offset /= 2) x = fmax(__shfl_xor_sync(0xffffffffu, x, offset), x);
  return x;
}

template <class C>
__device__ __forceinline__ C warp_min(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmin(__shfl_xor_sync(0xffffffffu, x, offset), x);
  return x;
}

// From sm_80 on one instruction reduces integers: here the bits, or, of a float, an integer that is ordered like it.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__device__ __forceinline__ int exchange_order(int bits) { return bits ^ (bits >> 31 & 0x7fffffff); }  // its own inverse

__device__ __forceinline__ float warp_max(float x) {
  return __int_as_float(exchange_order(__reduce_max_sync(0xffffffffu, exchange_order(__float_as_int(x)))));
}

__device__ __forceinline__ float warp_min(float x) {
  return __int_as_float(exchange_order(__reduce_min_sync(0xffffffffu, exchange_order(__float_as_int(x)))));
}

__device__ __forceinline__ unsigned warp_or(unsigned x) { return __reduce_or_sync(0xffffffffu, x); }
#else
__device__ __forceinline__ unsigned warp_or(unsigned x) {
  for (int offset = 16; offset > 0; offset /= 2) x |= __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
#endif

}  // namespace retinanet_fast
