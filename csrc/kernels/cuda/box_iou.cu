// box_iou: iou[i, j] = I / (A_i + A_j - I), of the intersection I and the areas A (math/box.h).
//   A block has as many threads along M as M needs (8 to 256), the others along N. A thread keeps boxes2[j] and takes
//   kRows rows of a tile in shared memory; neighbours store neighbouring outputs. Moves N * M outputs once; the boxes
//   are few beside them. Most pairs do not overlap: their zeros are stored first, without a division, then the others.
// box_iou_backward: one warp per row i; lane l adds up j = l, l + 32, ... Reads grad_iou once.
// Deterministic: the lanes of a row are added in a fixed tree.
#include "kernels/box_iou.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sum.cuh"
#include "math/box.h"

namespace retinanet_fast {
inline namespace box_iou_cu {

using namespace math;

constexpr int kThreads = 256;
constexpr int kRows = 8;
constexpr int kFewestColumns = 8;  // of a block
constexpr int64_t kMaxGridY = 65535;

// A box that overlaps every box whose IoU with `box` may be other than 0: `box` itself, or the whole plane if the area
// is not positive and finite.
template <class C>
__device__ Box<C> reach_of(const Box<C>& box) {
  constexpr C kInfinity = std::numeric_limits<C>::infinity();
  const C size = area(box);
  const bool proper = box.x2 > box.x1 && box.y2 > box.y1 && size > C(0) && size < kInfinity;
  return proper ? box : Box<C>{-kInfinity, -kInfinity, kInfinity, kInfinity};
}

template <class C>
__device__ __forceinline__ bool meet(const Box<C>& a, const Box<C>& b) {
  return (fmin(a.x2, b.x2) > fmax(a.x1, b.x1)) & (fmin(a.y2, b.y2) > fmax(a.y1, b.y1));
}

template <class T>
__global__ void box_iou_kernel(BoxIouParams p) {
  using C = ComputeType<T>;
  constexpr int kMostRows = kRows * kThreads / kFewestColumns;  // of a tile
  __shared__ Box<C> rows[kMostRows];
  __shared__ Box<C> reaches[kMostRows];
  const int step = blockDim.y;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  const int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const Box<C> b = load_box(static_cast<const T*>(p.boxes2) + 4 * min2(j, p.m - 1));
  const Box<C> reach = reach_of(b);
  const int64_t stride = step * p.m;
  for (int64_t first = int64_t(blockIdx.y) * step * kRows; first < p.n; first += int64_t(gridDim.y) * step * kRows) {
    __syncthreads();
    if (thread < step * kRows && first + thread < p.n) {
      rows[thread] = load_box(static_cast<const T*>(p.boxes1) + 4 * (first + thread));
      reaches[thread] = reach_of(rows[thread]);
    }
    __syncthreads();
    if (j >= p.m) continue;
    const int own = threadIdx.y;  // and every step-th row after it
    const int left = int(min2(p.n - first, int64_t(step) * kRows));
    T* const column = static_cast<T*>(p.iou) + (first + own) * p.m + j;
    T* to = column;
    unsigned others = 0;
#pragma unroll
    for (int row = 0; row < kRows; ++row, to += stride) {
      const int i = own + row * step;
      if (i >= left) break;
      if (meet(reaches[i], reach)) {
        others |= 1u << row;
      } else {
        store(*to, C(0));
      }
    }
    for (; others != 0; others &= others - 1) {
      const int row = __ffs(int(others)) - 1;
      const Box<C> a = rows[own + row * step];
      store(column[row * stride], iou(a, area(a), b, area(b)));
    }
  }
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

}  // namespace box_iou_cu

Status box_iou_cuda(const BoxIouParams& p, CudaStream stream) {
  return dispatch_wide_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    unsigned columns = kThreads;
    while (columns / 2 >= p.m && columns > kFewestColumns) columns /= 2;
    const dim3 block(columns, kThreads / columns);
    const dim3 grid(unsigned(ceil_div(p.m, columns)), unsigned(min2(ceil_div(p.n, block.y * kRows), kMaxGridY)));
    return launch(box_iou_kernel<T>, grid, block, 0, stream, p);
  });
}

Status box_iou_backward_cuda(const BoxIouBackwardParams& p, CudaStream stream) {
  return dispatch_wide_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 grid(ceil_div(p.n, kThreads / 32));
    return launch(box_iou_backward_kernel<T>, grid, dim3(kThreads), 0, stream, p);
  });
}

}  // namespace retinanet_fast
