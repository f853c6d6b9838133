// decode_boxes: x = xa + dx / wx wa, w = wa exp(min(dw / ww, max)) (math/box_coding.h), optionally clipped.
//   One thread per row (per two rows of a 16-bit type), 16-byte accesses. Moves 3 rows of 4 values per box forward, 5
//   backward. Deterministic: no reductions.
#include "kernels/decode_boxes.h"

#include "kernels/cuda/rows.cuh"
#include "math/box_coding.h"

namespace retinanet_fast {
inline namespace decode_boxes_cu {

using namespace math;

template <class T>
__global__ void decode_boxes_kernel(DecodeBoxesParams p, bool aligned) {
  using Rows = RowPack<T>;
  using C = ComputeType<T>;
  const int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * Rows::kRows;
  const int64_t left = p.n - first;
  if (left <= 0) return;
  Rows deltas, anchors, boxes;
  deltas.load(static_cast<const T*>(p.deltas) + 4 * first, left, aligned);
  anchors.load(static_cast<const T*>(p.anchors) + 4 * first, left, aligned);
  const BoxWeights<C> weights(p.weights);
  for (int i = 0; i < 4 * Rows::kRows; i += 4) {
    const Box<C> box =
        decode(load_deltas(deltas.values + i), load_box(anchors.values + i), weights, C(p.max_log_scale));
    store_box(boxes.values + i, p.clip ? clip(box, C(p.height), C(p.width)) : box);
  }
  boxes.store(static_cast<T*>(p.boxes) + 4 * first, left, aligned);
}

template <class T>
__global__ void decode_boxes_backward_kernel(DecodeBoxesBackwardParams p, bool aligned) {
  using Rows = RowPack<T>;
  using C = ComputeType<T>;
  const int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * Rows::kRows;
  const int64_t left = p.n - first;
  if (left <= 0) return;
  Rows upstreams, deltas, anchors, grad_deltas, grad_anchors;
  upstreams.load(static_cast<const T*>(p.grad_boxes) + 4 * first, left, aligned);
  deltas.load(static_cast<const T*>(p.deltas) + 4 * first, left, aligned);
  anchors.load(static_cast<const T*>(p.anchors) + 4 * first, left, aligned);
  const BoxWeights<C> weights(p.weights);
  const C max_log_scale = C(p.max_log_scale);
  for (int i = 0; i < 4 * Rows::kRows; i += 4) {
    const Deltas<C> delta = load_deltas(deltas.values + i);
    const Box<C> anchor = load_box(anchors.values + i);
    Box<C> upstream = load_box(upstreams.values + i);
    if (p.clip) {
      upstream = clip_backward(decode(delta, anchor, weights, max_log_scale), C(p.height), C(p.width), upstream);
    }
    Deltas<C> grad_delta;
    Box<C> grad_anchor;
    decode_backward(delta, anchor, weights, max_log_scale, upstream, grad_delta, grad_anchor);
    store_deltas(grad_deltas.values + i, grad_delta);
    store_box(grad_anchors.values + i, grad_anchor);
  }
  grad_deltas.store(static_cast<T*>(p.grad_deltas) + 4 * first, left, aligned);
  grad_anchors.store(static_cast<T*>(p.grad_anchors) + 4 * first, left, aligned);
}

}  // namespace decode_boxes_cu

Status decode_boxes_cuda(const DecodeBoxesParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = all_aligned(p.deltas, p.anchors, p.boxes);
    return launch(decode_boxes_kernel<T>, row_grid<T>(p.n), dim3(kRowThreads), 0, stream, p, aligned);
  });
}

Status decode_boxes_backward_cuda(const DecodeBoxesBackwardParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = all_aligned(p.grad_boxes, p.deltas, p.anchors, p.grad_deltas, p.grad_anchors);
    return launch(decode_boxes_backward_kernel<T>, row_grid<T>(p.n), dim3(kRowThreads), 0, stream, p, aligned);
  });
}

}  // namespace retinanet_fast
