// Takes the place of the toolkit's header where the host compiler compiles kernels: those of CUDA's names that this
// project's kernels use, on top of the execution environment in emulator.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__
// Shared variables: blocks run one after another, so one copy is enough; memory.cpp finds it. Dynamic shared memory has
// no such variable: kernels take it from dynamic_shared<T>().
#define __shared__ thread_local

// ---- vector types: the alignment is what makes a misaligned load visible ----------------------------------------

#define EMULATOR_VECTORS(T, name)                                               \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                            \
  struct name##3 { T x, y, z; };                                                \
  struct alignas(sizeof(T) < 8 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                    \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTORS(unsigned char, uchar)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned, uint)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
#undef EMULATOR_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Set by the scheduler whenever it switches to a thread.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- the host's side --------------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = void*;

cudaError_t cudaGetLastError();
inline const char* cudaGetErrorString(cudaError_t) { return "refused by the emulator"; }

namespace emulator {

template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, const Args&... args) {
  // The arguments lie on the launcher's stack, which is not memory of the kernel.
  const auto body = [&]() __attribute__((no_sanitize("thread"))) { kernel(args...); };
  run_grid(
      {reinterpret_cast<const void*>(kernel), {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes},
      [](const void* context)
          __attribute__((no_sanitize("thread"))) { (*static_cast<const decltype(body)*>(context))(); },
      &body);
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(dynamic_shared_bytes());
}

}  // namespace emulator

// ---- threads of a block and of a warp ---------------------------------------------------------------------------

// What is one instruction on a GPU, and a function here: not a part of the kernel's code that counts.cpp counts.
#define EMULATOR_INSTRUCTION __attribute__((noinline, no_sanitize("thread"), no_sanitize_coverage))

EMULATOR_INSTRUCTION inline void __syncthreads() { emulator::sync_threads("__syncthreads", 0); }
EMULATOR_INSTRUCTION inline int __syncthreads_count(int predicate) { return emulator::sync_threads("__syncthreads_count", predicate != 0); }
EMULATOR_INSTRUCTION inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
EMULATOR_INSTRUCTION inline int __syncthreads_and(int predicate) {
  return __syncthreads_count(predicate) == int(blockDim.x * blockDim.y * blockDim.z);
}
EMULATOR_INSTRUCTION inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::gather("__syncwarp", mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { emulator::fail("__trap()"); }

namespace emulator {

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
EMULATOR_INSTRUCTION T shuffle(const char* name, unsigned mask, T value, int source, bool inside) {
  const Lanes lanes = gather(name, mask, to_bits(value));
  return inside ? from_bits<T>(lanes.read(name, source)) : value;
}

}  // namespace emulator

template <class T>
EMULATOR_INSTRUCTION T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = emulator::lane();
  return emulator::shuffle("__shfl_sync", mask, value, (lane & ~(width - 1)) + (source & (width - 1)), true);
}
template <class T>
EMULATOR_INSTRUCTION T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int source = emulator::lane() - int(delta);
  return emulator::shuffle("__shfl_up_sync", mask, value, source, source >= (emulator::lane() & ~(width - 1)));
}
template <class T>
EMULATOR_INSTRUCTION T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int source = emulator::lane() + int(delta);
  return emulator::shuffle("__shfl_down_sync", mask, value, source, source <= (emulator::lane() | (width - 1)));
}
template <class T>
EMULATOR_INSTRUCTION T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int source = emulator::lane() ^ lanes;
  return emulator::shuffle("__shfl_xor_sync", mask, value, source, source <= (emulator::lane() | (width - 1)));
}

EMULATOR_INSTRUCTION inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const emulator::Lanes lanes = emulator::gather("__ballot_sync", mask, predicate != 0);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= unsigned(lanes.value[lane]) << lane;
  return votes;
}
EMULATOR_INSTRUCTION inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
EMULATOR_INSTRUCTION inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T>
EMULATOR_INSTRUCTION unsigned __match_any_sync(unsigned mask, T value) {
  const emulator::Lanes lanes = emulator::gather("__match_any_sync", mask, emulator::to_bits(value));
  unsigned equal = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if ((lanes.present >> lane & 1) && lanes.value[lane] == emulator::to_bits(value)) equal |= 1u << lane;
  }
  return equal;
}

namespace emulator {
template <class T, class Op>
EMULATOR_INSTRUCTION T reduce(const char* name, unsigned mask, T value, Op op) {
  const Lanes lanes = gather(name, mask, to_bits(value));
  T result = value;
  for (int l = 0; l < 32; ++l) {
    if ((lanes.present >> l & 1) && l != lane()) result = op(result, from_bits<T>(lanes.value[l]));
  }
  return result;
}
}  // namespace emulator
#define EMULATOR_REDUCE(name, expression)                                             \
  template <class T>                                                                  \
  EMULATOR_INSTRUCTION T name(unsigned mask, T value) {                               \
    return emulator::reduce(#name, mask, value, [](T a, T b) { return expression; }); \
  }
EMULATOR_REDUCE(__reduce_add_sync, a + b)
EMULATOR_REDUCE(__reduce_min_sync, std::min(a, b))
EMULATOR_REDUCE(__reduce_max_sync, std::max(a, b))
EMULATOR_REDUCE(__reduce_or_sync, a | b)
EMULATOR_REDUCE(__reduce_and_sync, a& b)
#undef EMULATOR_REDUCE

// ---- atomics: threads are switched only where they wait, so a plain read and write is one step -------------------

#define EMULATOR_ATOMIC(name, expression)                                      \
  template <class T>                                                           \
  EMULATOR_INSTRUCTION T name(T* address, std::type_identity_t<T> value) {     \
    emulator::access(address, sizeof(T), emulator::kAtomic);                   \
    return emulator::replace(address, [&](T old) -> T { return expression; }); \
  }
namespace emulator {
template <class T, class Op>
EMULATOR_INSTRUCTION T replace(T* address, const Op& op) {
  const T old = *address;
  *address = op(old);
  return old;
}
}  // namespace emulator
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicMin, std::min(old, value))
EMULATOR_ATOMIC(atomicMax, std::max(old, value))
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicAnd, old& value)
EMULATOR_ATOMIC(atomicXor, old ^ value)
EMULATOR_ATOMIC(atomicExch, (void(old), value))
EMULATOR_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef EMULATOR_ATOMIC
template <class T>
EMULATOR_INSTRUCTION T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  emulator::access(address, sizeof(T), emulator::kAtomic);
  return emulator::replace(address, [&](T old) { return old == expected ? value : old; });
}

// ---- intrinsics -------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
  return unsigned((uint64_t(high) << 32 | low) >> (bits & 31));
}
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
// Caching hints: __ldg(p), __ldcs(p), __stcs(p, value), ...
#define EMULATOR_LOAD(name)  \
  template <class T>         \
  T name(const T* address) { \
    return *address;         \
  }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldlu)
#undef EMULATOR_LOAD
#define EMULATOR_STORE(name)       \
  template <class T>               \
  void name(T* address, T value) { \
    *address = value;              \
  }
    EMULATOR_STORE(__stcs) EMULATOR_STORE(__stcg) EMULATOR_STORE(__stwb) EMULATOR_STORE(__stwt)
#undef EMULATOR_STORE
        using std::max;
using std::min;
