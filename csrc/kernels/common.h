// What every kernel's interface uses: element types, a status, the CPU's parallel loop, CUDA's stream.
// No torch here or below: a launcher gets raw pointers and sizes, never allocates and never synchronises.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/scalar.h"

// What the Python module calls in the library of the ops, whose other names are hidden.
#define RETINANET_FAST_API __attribute__((visibility("default")))

namespace retinanet_fast {

enum class DType : int8_t { kFloat64, kFloat32, kFloat16, kBFloat16 };

constexpr size_t size_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// Calls `f` with a zero of the storage type that `dtype` names:
// dispatch_dtype(p.dtype, [&](auto zero) { using T = decltype(zero); ... }).
template <class F>
RETINANET_FAST_HOST_INLINE auto dispatch_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat64: return f(double{});
    case DType::kFloat16: return f(math::Half{});
    case DType::kBFloat16: return f(math::BFloat16{});
    default: return f(float{});
  }
}

// The same for what is float64 or float32.
template <class F>
RETINANET_FAST_HOST_INLINE auto dispatch_wide_dtype(DType dtype, F&& f) {
  return dtype == DType::kFloat64 ? f(double{}) : f(float{});
}

// A scalar that is stored as T or, if `wide`, in T's computing type, as a float32 loss of 16-bit logits is.
template <class T>
RETINANET_FAST_INLINE math::ComputeType<T> load_scalar(const void* from, bool wide) {
  return wide ? *static_cast<const math::ComputeType<T>*>(from) : math::load(*static_cast<const T*>(from));
}

template <class T>
RETINANET_FAST_INLINE void store_scalar(void* to, math::ComputeType<T> x, bool wide) {
  if (wide) {
    *static_cast<math::ComputeType<T>*>(to) = x;
  } else {
    math::store(*static_cast<T*>(to), x);
  }
}

// What a launcher reports; the layer above turns it into an exception that names the op.
struct Status {
  enum class Code : int8_t {
    kOk,
    kBadLabel,  // labels[row] == value lies outside [low, high)
    kBadBox,    // box `row` of image `value` has no area
    kBadCount,  // image `value` has no such number of boxes
    kCuda,      // `value` is a cudaError_t
  };
  Code code = Code::kOk;
  int64_t row = -1;
  int64_t value = 0;
  int64_t low = 0;
  int64_t high = 0;

  static RETINANET_FAST_INLINE Status bad_label(int64_t row, int64_t value, int64_t low, int64_t high) {
    return {Code::kBadLabel, row, value, low, high};
  }

  bool ok() const { return code == Code::kOk; }
};

// A label outside the classes as one negative number, which a CUDA kernel leaves in host memory.
RETINANET_FAST_INLINE int64_t bad_label_code(int64_t row, int64_t label) { return -(row << 32 | uint32_t(label)) - 1; }
RETINANET_FAST_INLINE int64_t bad_label_row(int64_t code) { return -(code + 1) >> 32; }
RETINANET_FAST_INLINE int64_t bad_label_value(int64_t code) { return int32_t(uint32_t(-(code + 1))); }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The CPU's counterpart of a stream: runs task(context, i) for i in [0, tasks), on as many threads as its owner
// likes. Kernels cut work into tasks by size alone, so that results do not depend on the number of threads.
struct Executor {
  void (*run)(int64_t tasks, void (*task)(void* context, int64_t index), void* context);

  template <class F>
  void parallel_for(int64_t tasks, const F& body) const {
    if (tasks == 1) return body(int64_t{0});
    run(tasks, [](void* context, int64_t index) { (*static_cast<const F*>(context))(index); }, const_cast<F*>(&body));
  }
};

// A cudaStream_t, spelled so that headers need no CUDA toolkit.
using CudaStream = void*;

}  // namespace retinanet_fast
