// A fixed number of rows a task.
#include "kernels/cpu/kernels.h"
#include "math/box_coding.h"

namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL {

using namespace math;

namespace {
constexpr int64_t kRows = 2048;
}

Status decode_boxes(const DecodeBoxesParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const T* deltas = static_cast<const T*>(p.deltas);
    const T* anchors = static_cast<const T*>(p.anchors);
    T* boxes = static_cast<T*>(p.boxes);
    const BoxWeights<C> weights(p.weights);
    executor.parallel_for_rows(p.n, kRows, [&](int64_t i) {
      const Box<C> box = decode(load_deltas(deltas + 4 * i), load_box(anchors + 4 * i), weights, C(p.max_log_scale));
      store_box(boxes + 4 * i, p.clip ? clip(box, C(p.height), C(p.width)) : box);
    });
    return Status{};
  });
}

Status decode_boxes_backward(const DecodeBoxesBackwardParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const T* grad_boxes = static_cast<const T*>(p.grad_boxes);
    const T* deltas = static_cast<const T*>(p.deltas);
    const T* anchors = static_cast<const T*>(p.anchors);
    T* grad_deltas = static_cast<T*>(p.grad_deltas);
    T* grad_anchors = static_cast<T*>(p.grad_anchors);
    const BoxWeights<C> weights(p.weights);
    const C max_log_scale = C(p.max_log_scale);
    executor.parallel_for_rows(p.n, kRows, [&](int64_t i) {
      const Deltas<C> delta = load_deltas(deltas + 4 * i);
      const Box<C> anchor = load_box(anchors + 4 * i);
      Box<C> upstream = load_box(grad_boxes + 4 * i);
      if (p.clip) {
        upstream = clip_backward(decode(delta, anchor, weights, max_log_scale), C(p.height), C(p.width), upstream);
      }
      Deltas<C> grad_delta;
      Box<C> grad_anchor;
      decode_backward(delta, anchor, weights, max_log_scale, upstream, grad_delta, grad_anchor);
      store_deltas(grad_deltas + 4 * i, grad_delta);
      store_box(grad_anchors + 4 * i, grad_anchor);
    });
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL
