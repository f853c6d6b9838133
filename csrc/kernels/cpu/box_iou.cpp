// A task is some rows of the matrix; the compiler vectorises over boxes2.
#include "kernels/cpu/kernels.h"
#include "math/box.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

namespace {

// Pairs of boxes per task, about: fewer are done before another thread has woken up.
constexpr int64_t kPairs = 16384;
constexpr int64_t kPairsBackward = 2048;

template <class F>
void for_each_row(const Executor& executor, int64_t n, int64_t m, int64_t pairs_per_task, const F& f) {
  const int64_t rows = max2(int64_t(1), pairs_per_task / max2(int64_t(1), m));
  executor.parallel_for(ceil_div(n, rows), [&](int64_t task) {
    for (int64_t i = task * rows; i < min2(n, (task + 1) * rows); ++i) f(i);
  });
}

}  // namespace

Status box_iou(const BoxIouParams& p, const Executor& executor) {
  return dispatch_wide_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* boxes1 = static_cast<const T*>(p.boxes1);
    const T* boxes2 = static_cast<const T*>(p.boxes2);
    for_each_row(executor, p.n, p.m, kPairs, [&](int64_t i) {
      const auto a = load_box(boxes1 + 4 * i);
      const auto area_a = area(a);
      T* row = static_cast<T*>(p.iou) + i * p.m;
      for (int64_t j = 0; j < p.m; ++j) {
        const auto b = load_box(boxes2 + 4 * j);
        store(row[j], iou(a, area_a, b, area(b)));
      }
    });
    return Status{};
  });
}

Status box_iou_backward(const BoxIouBackwardParams& p, const Executor& executor) {
  return dispatch_wide_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const T* boxes1 = static_cast<const T*>(p.boxes1);
    const T* boxes2 = static_cast<const T*>(p.boxes2);
    for_each_row(executor, p.n, p.m, kPairsBackward, [&](int64_t i) {
      const Box<C> a = load_box(boxes1 + 4 * i);
      Box<C> grad{};
      const T* row = static_cast<const T*>(p.grad_iou) + i * p.stride_n;
      for (int64_t j = 0; j < p.m; ++j) {
        iou_backward(a, load_box(boxes2 + 4 * j), load(row[j * p.stride_m]), grad);
      }
      store_box(static_cast<T*>(p.grad_boxes1) + 4 * i, grad);
    });
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
