// One task per row of the matrix; the compiler vectorises over boxes2.
#include "kernels/cpu/kernels.h"
#include "math/box.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

Status box_iou(const BoxIouParams& p, const Executor& executor) {
  return dispatch_wide_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* boxes1 = static_cast<const T*>(p.boxes1);
    const T* boxes2 = static_cast<const T*>(p.boxes2);
    executor.parallel_for(p.n, [&](int64_t i) {
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
    executor.parallel_for(p.n, [&](int64_t i) {
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
