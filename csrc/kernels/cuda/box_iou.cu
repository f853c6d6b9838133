// box_iou: a thread per element of [N, M], neighbours along M, so that stores coalesce and boxes1[i] broadcasts.
//   moves N*M outputs once and 16 (N + M) bytes of boxes through the cache.
// box_iou_backward: a warp per row i; lane l adds up j = l, l + 32, ... and the lanes are then added in a fixed
//   tree, so that the sum has the same order on every run.
#include "kernels/box_iou.h"

#include "kernels/cuda/launch.cuh"
#include "math/box.h"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;

template <class T>
__global__ void box_iou_kernel(BoxIouParams p) {
  const int64_t element = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (element >= p.n * p.m) return;
  const auto a = load_box(static_cast<const T*>(p.boxes1) + 4 * (element / p.m));
  const auto b = load_box(static_cast<const T*>(p.boxes2) + 4 * (element % p.m));
  store(static_cast<T*>(p.iou)[element], iou(a, area(a), b, area(b)));
}

template <class C>
__device__ C warp_sum(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_down_sync(0xffffffffu, x, offset);
  return x;
}

template <class T>
__global__ void box_iou_backward_kernel(BoxIouBackwardParams p) {
  using C = ComputeType<T>;
  const int64_t i = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (i >= p.n) return;  // a whole warp at a time
  const Box<C> a = load_box(static_cast<const T*>(p.boxes1) + 4 * i);
  const T* row = static_cast<const T*>(p.grad_iou) + i * p.stride_n;
  Box<C> grad{};
  for (int64_t j = lane; j < p.m; j += 32) {
    iou_backward(a, load_box(static_cast<const T*>(p.boxes2) + 4 * j), load(row[j * p.stride_m]), grad);
  }
  grad = {warp_sum(grad.x1), warp_sum(grad.y1), warp_sum(grad.x2), warp_sum(grad.y2)};
  if (lane == 0) store_box(static_cast<T*>(p.grad_boxes1) + 4 * i, grad);
}

}  // namespace

Status box_iou_cuda(const BoxIouParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 grid(ceil_div(p.n * p.m, kThreads));
    return launch(box_iou_kernel<T>, grid, dim3(kThreads), 0, stream, p);
  });
}

Status box_iou_backward_cuda(const BoxIouBackwardParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 grid(ceil_div(p.n, kThreads / 32));
    return launch(box_iou_backward_kernel<T>, grid, dim3(kThreads), 0, stream, p);
  });
}

}  // namespace retinanet_fast
