// A fixed number of rows a task.
#include "kernels/cpu/kernels.h"
#include "math/box_coding.h"

namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL {

using namespace math;

namespace {
constexpr int64_t kRows = 2048;
}

Status encode_boxes(const EncodeBoxesParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* boxes = static_cast<const T*>(p.boxes);
    const T* anchors = static_cast<const T*>(p.anchors);
    T* deltas = static_cast<T*>(p.deltas);
    const BoxWeights<ComputeType<T>> weights(p.weights);
    executor.parallel_for_rows(p.n, kRows, [&](int64_t i) {
      store_deltas(deltas + 4 * i, encode(load_box(boxes + 4 * i), load_box(anchors + 4 * i), weights));
    });
    return Status{};
  });
}

Status encode_boxes_backward(const EncodeBoxesBackwardParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const T* upstream = static_cast<const T*>(p.grad_deltas);
    const T* boxes = static_cast<const T*>(p.boxes);
    const T* anchors = static_cast<const T*>(p.anchors);
    T* grad_boxes = static_cast<T*>(p.grad_boxes);
    T* grad_anchors = static_cast<T*>(p.grad_anchors);
    const BoxWeights<C> weights(p.weights);
    executor.parallel_for_rows(p.n, kRows, [&](int64_t i) {
      Box<C> grad_box, grad_anchor;
      encode_backward(load_box(boxes + 4 * i), load_box(anchors + 4 * i), weights, load_deltas(upstream + 4 * i),
                      grad_box, grad_anchor);
      store_box(grad_boxes + 4 * i, grad_box);
      store_box(grad_anchors + 4 * i, grad_anchor);
    });
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL
