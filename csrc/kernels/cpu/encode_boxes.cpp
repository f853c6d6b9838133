// Block by block: rows become columns (columns.h), a vector loop goes over these, and columns become rows again.
#include "kernels/cpu/columns.h"
#include "kernels/cpu/kernels.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

Status encode_boxes(const EncodeBoxesParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const BoxWeights<C> weights(p.weights);
    for_each_block(executor, p.n, [&](int64_t first, int n) {
      Columns<C> boxes, anchors, deltas;
      boxes.load(static_cast<const T*>(p.boxes) + 4 * first, n);
      anchors.load(static_cast<const T*>(p.anchors) + 4 * first, n);
      for (int i = 0; i < Columns<C>::kRows; ++i) deltas.set(i, encode(boxes.box(i), anchors.box(i), weights));
      deltas.store(static_cast<T*>(p.deltas) + 4 * first, n);
    });
    return Status{};
  });
}

Status encode_boxes_backward(const EncodeBoxesBackwardParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    using C = ComputeType<T>;
    const BoxWeights<C> weights(p.weights);
    for_each_block(executor, p.n, [&](int64_t first, int n) {
      Columns<C> grad_deltas, boxes, anchors, grad_boxes, grad_anchors;
      grad_deltas.load(static_cast<const T*>(p.grad_deltas) + 4 * first, n);
      boxes.load(static_cast<const T*>(p.boxes) + 4 * first, n);
      anchors.load(static_cast<const T*>(p.anchors) + 4 * first, n);
      for (int i = 0; i < Columns<C>::kRows; ++i) {
        Box<C> grad_box, grad_anchor;
        encode_backward(boxes.box(i), anchors.box(i), weights, grad_deltas.deltas(i), grad_box, grad_anchor);
        grad_boxes.set(i, grad_box);
        grad_anchors.set(i, grad_anchor);
      }
      grad_boxes.store(static_cast<T*>(p.grad_boxes) + 4 * first, n);
      grad_anchors.store(static_cast<T*>(p.grad_anchors) + 4 * first, n);
    });
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
