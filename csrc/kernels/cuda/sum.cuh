// Sums in an order that depends on sizes alone.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common.h"

namespace retinanet_fast {

template <class C>
__device__ __forceinline__ C warp_sum(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;  // lane 0 has all of it
}

// Of a whole block of kThreads threads, all of which must call it: warps as trees in C, then warp by warp in double.
// The result is thread 0's.
template <int kThreads, class C>
__device__ __forceinline__ double block_sum(C x) {
  static_assert(kThreads % 32 == 0);
  __shared__ double warps[kThreads / 32];
  const C sum = warp_sum(x);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = double(sum);
  __syncthreads();
  double total = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < kThreads / 32; ++warp) total += warps[warp];
  }
  return total;
}

// One block: *sum = partial_sums[0] + ... + partial_sums[n - 1].
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) sum_partials_kernel(const double* partial_sums, int64_t n, T* sum) {
  double mine = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) mine += partial_sums[i];
  const double total = block_sum<kThreads>(mine);
  if (threadIdx.x == 0) math::store(*sum, math::ComputeType<T>(total));
}

}  // namespace retinanet_fast
