// What lets one header serve the host compiler, nvcc and a host-side emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

// Always inlined on the host: the CPU kernels are compiled once per x86-64 level into one library, and an
// out-of-line copy made for a newer level could be the one that the linker keeps for all of them.
#define RETINANET_FAST_HOST_INLINE inline __attribute__((always_inline))
#if defined(__CUDACC__)
#define RETINANET_FAST_INLINE __host__ __device__ __forceinline__
#else
#define RETINANET_FAST_INLINE RETINANET_FAST_HOST_INLINE
#endif

namespace retinanet_fast::math {

// Products that no compiler may contract into a fused multiply-add; the sums around them need no care then.
// (Host code is compiled with -ffp-contract=off.)
RETINANET_FAST_INLINE float mul_exact(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

RETINANET_FAST_INLINE double mul_exact(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// Branch-free selections with one meaning everywhere: the second operand unless the first compares greater
// (smaller), so a NaN in `a` is dropped and a NaN in `b` is kept, on the CPU and on CUDA alike.
template <class T>
RETINANET_FAST_INLINE T max2(T a, T b) {
  return a > b ? a : b;
}

template <class T>
RETINANET_FAST_INLINE T min2(T a, T b) {
  return a < b ? a : b;
}

}  // namespace retinanet_fast::math
