// 16-byte loads and stores of consecutive elements, widened to the computing type. Indices may have 32 bits where a
// block counts from its own first element.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common.h"

namespace retinanet_fast {

// Elements per 16-byte vector.
template <class T>
constexpr int kVector = 16 / int(sizeof(T));

// Whether elements at multiples of kVector may be accessed 16 bytes at a time.
__device__ __forceinline__ bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// How many elements `pointer` lies behind the 16-byte boundary at or before it.
template <class T>
__device__ __forceinline__ int past_boundary(const T* pointer) {
  return int(reinterpret_cast<uintptr_t>(pointer) / sizeof(T) % kVector<T>);
}

template <class T>
struct alignas(16) VectorOf {
  T values[kVector<T>];
};

// kVector elements at a 16-byte boundary, not widened yet.
template <class T>
__device__ __forceinline__ uint4 read_whole(const T* from) {
  return *reinterpret_cast<const uint4*>(from);
}

// The vector at from[i] of n elements, `i` a multiple of kVector, with 0 behind the end. Not widened: until it is used
// it takes four registers.
template <class T, class Index>
__device__ __forceinline__ uint4 read_vector(const T* from, Index i, Index n, bool aligned) {
  if (aligned && i + kVector<T> <= n) return read_whole(from + i);
  VectorOf<T> vector;
#pragma unroll
  for (int e = 0; e < kVector<T>; ++e) vector.values[e] = i + e < n ? from[i + e] : T{};
  return math::bit_cast<uint4>(vector);
}

template <class T>
__device__ __forceinline__ void widen(const uint4& bits, math::ComputeType<T> (&to)[kVector<T>]) {
  const auto vector = math::bit_cast<VectorOf<T>>(bits);
#pragma unroll
  for (int e = 0; e < kVector<T>; e += 2) math::load_two(vector.values + e, to[e], to[e + 1]);
}

template <class T, class Index>
__device__ __forceinline__ void load_vector(const T* from, Index i, Index n, bool aligned,
                                            math::ComputeType<T> (&to)[kVector<T>]) {
  widen<T>(read_vector(from, i, n, aligned), to);
}

// One instruction, which a plain assignment does not always become. It bypasses the first-level cache, since what is
// stored is not read again.
__device__ __forceinline__ void store_16_bytes(void* to, const uint4& bits) {
#if defined(__CUDA_ARCH__)
  __stcg(static_cast<uint4*>(to), bits);
#else
  *static_cast<uint4*>(to) = bits;
#endif
}

template <class T>
__device__ __forceinline__ void store_whole(T* to, const math::ComputeType<T> (&from)[kVector<T>]) {
  VectorOf<T> vector;
#pragma unroll
  for (int e = 0; e < kVector<T>; e += 2) math::store_two(vector.values + e, from[e], from[e + 1]);
  store_16_bytes(to, math::bit_cast<uint4>(vector));
}

template <class T, class Index>
__device__ __forceinline__ void store_vector(T* to, Index i, Index n, bool aligned,
                                             const math::ComputeType<T> (&from)[kVector<T>]) {
  if (aligned && i + kVector<T> <= n) {
    store_whole(to + i, from);
  } else {
#pragma unroll
    for (int e = 0; e < kVector<T>; ++e) {
      if (i + e < n) math::store(to[i + e], from[e]);
    }
  }
}

}  // namespace retinanet_fast
