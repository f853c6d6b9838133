// Sums whose order depends on sizes alone.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace retinanet_fast {

// The sum of x over a block of kThreads threads, all of which must call it: a tree per warp in C, then warp by warp in
// double. Thread 0 gets it.
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

constexpr int kSumThreads = 1024;

// numbers[0] + ... + numbers[n - 1], by a block of kSumThreads threads. Thread 0 gets it.
__device__ __forceinline__ double sum_of(const double* numbers, int64_t n) {
  double mine = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) mine += numbers[i];
  return block_sum<kSumThreads>(mine);
}

template <class T>
__global__ void __launch_bounds__(kSumThreads) sum_partials_kernel(const double* partial_sums, int64_t n, T* sum) {
  const double total = sum_of(partial_sums, n);
  if (threadIdx.x == 0) math::store(*sum, math::ComputeType<T>(total));
}

// Writes the sum as T or, if `wide`, in T's computing type.
template <class T>
Status sum_partials(const double* partial_sums, int64_t n, void* sum, bool wide, CudaStream stream) {
  using C = math::ComputeType<T>;
  const dim3 one(1), threads(kSumThreads);
  return wide ? launch(sum_partials_kernel<C>, one, threads, 0, stream, partial_sums, n, static_cast<C*>(sum))
              : launch(sum_partials_kernel<T>, one, threads, 0, stream, partial_sums, n, static_cast<T*>(sum));
}

}  // namespace retinanet_fast
