// The 16-bit storage types, and for each storage type the one that arithmetic is done in.
#pragma once

#include "math/platform.h"

namespace retinanet_fast::math {

// Bits only: kernels load them, compute in float and store them. Conversions are branch-free integer and float
// arithmetic, so that host loops over them vectorise at every x86-64 level; on CUDA they are one instruction.
struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
RETINANET_FAST_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

RETINANET_FAST_INLINE double load(const double& x) { return x; }
RETINANET_FAST_INLINE float load(const float& x) { return x; }

RETINANET_FAST_INLINE float load(const BFloat16& x) { return bit_cast<float>(uint32_t(x.bits) << 16); }

RETINANET_FAST_INLINE float load(const Half& x) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13;
  // Rebias the exponent by multiplying with 2^112, which also normalises subnormals exactly; inf and NaN keep
  // an all-ones exponent.
  const float scaled = bit_cast<float>(magnitude) * 5.192296858534828e33f;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
#endif
}

RETINANET_FAST_INLINE void store(double& to, double x) { to = x; }
RETINANET_FAST_INLINE void store(float& to, float x) { to = x; }

// Round to nearest, ties to even, as torch converts; NaN stays a NaN.
RETINANET_FAST_INLINE void store(BFloat16& to, float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to.bits = uint16_t(x != x ? 0x7fc0u : rounded);
#endif
}

RETINANET_FAST_INLINE void store(Half& to, float x) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal results: rebias by -112 and round the 13 dropped bits to even.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal results: adding 0.5 aligns the last kept bit with the last bit of the float, which rounds there.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  to.bits = uint16_t(result | sign);
#endif
}

// Neighbours from[0] and from[1]; they lie on a 4-byte boundary where T has 2 bytes.
template <class T, class C>
RETINANET_FAST_INLINE void load_two(const T* from, C& first, C& second) {
  first = load(from[0]);
  second = load(from[1]);
}

// One instruction per element, without taking the 16-bit halves apart first.
RETINANET_FAST_INLINE void load_two(const BFloat16* from, float& first, float& second) {
  uint32_t both;  // of a little-endian machine
  memcpy(&both, from, sizeof(both));
  first = bit_cast<float>(both << 16);
  second = bit_cast<float>(both & 0xffff0000u);
}

// Neighbours to[0] and to[1], aligned as above: one conversion for both where CUDA has it (sm_80 and later).
template <class T, class C>
RETINANET_FAST_INLINE void store_two(T* to, C first, C second) {
  store(to[0], first);
  store(to[1], second);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
RETINANET_FAST_INLINE void store_two(BFloat16* to, float first, float second) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  memcpy(to, &both, sizeof(both));
}

RETINANET_FAST_INLINE void store_two(Half* to, float first, float second) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  memcpy(to, &both, sizeof(both));
}
#endif

// The type that arithmetic is done in: double for double, float for everything narrower.
template <class T>
struct ComputeTypeOf {
  using type = float;
};
template <>
struct ComputeTypeOf<double> {
  using type = double;
};
template <class T>
using ComputeType = typename ComputeTypeOf<T>::type;

}  // namespace retinanet_fast::math
