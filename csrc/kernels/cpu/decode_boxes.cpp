// Block by block: rows become columns (columns.h), a vector loop goes over these, and columns become rows again.
#include "kernels/cpu/columns.h"
#include "kernels/cpu/kernels.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

Status decode_boxes(const DecodeBoxesParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const BoxWeights<C> weights(p.weights);
    const C max_log_scale = C(p.max_log_scale), height = C(p.height), width = C(p.width);
    for_each_block(executor, p.n, [&](int64_t first, int n) {
      Columns<C> deltas, anchors, boxes;
      deltas.load(static_cast<const T*>(p.deltas) + 4 * first, n);
      anchors.load(static_cast<const T*>(p.anchors) + 4 * first, n);
      for (int i = 0; i < Columns<C>::kRows; ++i) {
        boxes.set(i, decode(deltas.deltas(i), anchors.box(i), weights, max_log_scale));
      }
      if (p.clip) {
        for (int i = 0; i < Columns<C>::kRows; ++i) boxes.set(i, clip(boxes.box(i), height, width));
      }
      boxes.store(static_cast<T*>(p.boxes) + 4 * first, n);
    });
    return Status{};
  });
}

Status decode_boxes_backward(const DecodeBoxesBackwardParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const BoxWeights<C> weights(p.weights);
    const C max_log_scale = C(p.max_log_scale), height = C(p.height), width = C(p.width);
    for_each_block(executor, p.n, [&](int64_t first, int n) {
      Columns<C> grad_boxes, deltas, anchors, grad_deltas, grad_anchors;
      grad_boxes.load(static_cast<const T*>(p.grad_boxes) + 4 * first, n);
      deltas.load(static_cast<const T*>(p.deltas) + 4 * first, n);
      anchors.load(static_cast<const T*>(p.anchors) + 4 * first, n);
      if (p.clip) {
        for (int i = 0; i < Columns<C>::kRows; ++i) {
          const Box<C> box = decode(deltas.deltas(i), anchors.box(i), weights, max_log_scale);
          grad_boxes.set(i, clip_backward(box, height, width, grad_boxes.box(i)));
        }
      }
      for (int i = 0; i < Columns<C>::kRows; ++i) {
        Deltas<C> grad_delta;
        Box<C> grad_anchor;
        decode_backward(deltas.deltas(i), anchors.box(i), weights, max_log_scale, grad_boxes.box(i), grad_delta,
                        grad_anchor);
        grad_deltas.set(i, grad_delta);
        grad_anchors.set(i, grad_anchor);
      }
      grad_deltas.store(static_cast<T*>(p.grad_deltas) + 4 * first, n);
      grad_anchors.store(static_cast<T*>(p.grad_anchors) + 4 * first, n);
    });
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
