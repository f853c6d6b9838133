// encode_boxes: dx = wx (x - xa) / wa, dw = ww ln(w / wa) (math/box_coding.h).
//   One thread per row (per two rows of a 16-bit type), 16-byte accesses. Moves 3 rows of 4 values per box forward, 5
//   backward. Deterministic: no reductions.
#include "kernels/encode_boxes.h"

#include "kernels/cuda/rows.cuh"
#include "math/box_coding.h"

namespace retinanet_fast {
inline namespace encode_boxes_cu {

using namespace math;

template <class T>
__global__ void encode_boxes_kernel(EncodeBoxesParams p, bool aligned) {
  using Rows = RowPack<T>;
  const int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * Rows::kRows;
  const int64_t left = p.n - first;
  if (left <= 0) return;
  Rows boxes, anchors, deltas;
  boxes.load(static_cast<const T*>(p.boxes) + 4 * first, left, aligned);
  anchors.load(static_cast<const T*>(p.anchors) + 4 * first, left, aligned);
  const BoxWeights<ComputeType<T>> weights(p.weights);
  for (int i = 0; i < 4 * Rows::kRows; i += 4) {
    store_deltas(deltas.values + i, encode(load_box(boxes.values + i), load_box(anchors.values + i), weights));
  }
  deltas.store(static_cast<T*>(p.deltas) + 4 * first, left, aligned);
}

template <class T>
__global__ void encode_boxes_backward_kernel(EncodeBoxesBackwardParams p, bool aligned) {
  using Rows = RowPack<T>;
  using C = ComputeType<T>;
  const int64_t first = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * Rows::kRows;
  const int64_t left = p.n - first;
  if (left <= 0) return;
  Rows upstream, boxes, anchors, grad_boxes, grad_anchors;
  upstream.load(static_cast<const T*>(p.grad_deltas) + 4 * first, left, aligned);
  boxes.load(static_cast<const T*>(p.boxes) + 4 * first, left, aligned);
  anchors.load(static_cast<const T*>(p.anchors) + 4 * first, left, aligned);
  const BoxWeights<C> weights(p.weights);
  for (int i = 0; i < 4 * Rows::kRows; i += 4) {
    Box<C> grad_box, grad_anchor;
    encode_backward(load_box(boxes.values + i), load_box(anchors.values + i), weights, load_deltas(upstream.values + i),
                    grad_box, grad_anchor);
    store_box(grad_boxes.values + i, grad_box);
    store_box(grad_anchors.values + i, grad_anchor);
  }
  grad_boxes.store(static_cast<T*>(p.grad_boxes) + 4 * first, left, aligned);
  grad_anchors.store(static_cast<T*>(p.grad_anchors) + 4 * first, left, aligned);
}

}  // namespace encode_boxes_cu

Status encode_boxes_cuda(const EncodeBoxesParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = all_aligned(p.boxes, p.anchors, p.deltas);
    return launch(encode_boxes_kernel<T>, row_grid<T>(p.n), dim3(kRowThreads), 0, stream, p, aligned);
  });
}

Status encode_boxes_backward_cuda(const EncodeBoxesBackwardParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = all_aligned(p.grad_deltas, p.boxes, p.anchors, p.grad_boxes, p.grad_anchors);
    return launch(encode_boxes_backward_kernel<T>, row_grid<T>(p.n), dim3(kRowThreads), 0, stream, p, aligned);
  });
}

}  // namespace retinanet_fast
