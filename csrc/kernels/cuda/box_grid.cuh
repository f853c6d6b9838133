// A grid of cells over the centres of boxes, and the cells in which all boxes that hit a box must lie. The distance is
// derived in kernels/cpu/kept_grid.h: the centres of two boxes with IoU > t are, along each axis, at most
// w (1 - t) max(1, 1 / (2 t)) apart, where w is the side of either.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/nms_workspace.h"
#include "math/iou_threshold.h"

namespace retinanet_fast {

// How many sides apart the centres of boxes can be whose computed IoU is above the threshold: a t lower than that by
// 1e-5 makes up for its roundings. Infinite where there is no such bound.
template <class C>
double centre_reach(const math::IouThreshold<C>& threshold) {
  if (!threshold.screened) return std::numeric_limits<double>::infinity();
  const double similar = math::min2(0.999, double(threshold.value)) * (1 - 1e-5);
  return (1 - similar) * math::max2(1.0, 0.5 / similar);
}

// No IoU with such a box is above a threshold >= 0: it is 0, or NaN.
template <class C>
__device__ __forceinline__ bool is_inert(const math::Box<C>& box) {
  const C area = math::area(box);
  return !(box.x2 > box.x1 && box.y2 > box.y1 && area > C(0) && area <= std::numeric_limits<C>::max());
}

template <class C>
__device__ __forceinline__ double centre_x(const math::Box<C>& box) {
  return 0.5 * (double(box.x1) + double(box.x2));
}
template <class C>
__device__ __forceinline__ double centre_y(const math::Box<C>& box) {
  return 0.5 * (double(box.y1) + double(box.y2));
}

// `at` may be infinite, not NaN. Monotone in `at`, in floating point too: a range of coordinates is a range of cells.
__device__ __forceinline__ int cell_along(double at, double first, double per_pixel, int side) {
  return int(math::max2(0.0, math::min2(double(side - 1), (at - first) * per_pixel)));
}

// A grid over the centres of the boxes that a block's threads hold, one per thread. All threads must call it.
template <int kThreads, class C>
__device__ NmsGrid grid_over(const math::Box<C>& box, int side) {
  constexpr int kWarps = kThreads / 32;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  __shared__ double warps[4][kWarps];
  const bool counts = !is_inert(box);
  // The minimum of each; a maximum is the negated minimum of negated values.
  double least[4] = {counts ? centre_x(box) : kInfinity, counts ? centre_y(box) : kInfinity,
                     counts ? -centre_x(box) : kInfinity, counts ? -centre_y(box) : kInfinity};
  for (int i = 0; i < 4; ++i) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      least[i] = math::min2(__shfl_xor_sync(0xffffffffu, least[i], lanes), least[i]);
    }
    if (threadIdx.x % 32 == 0) warps[i][threadIdx.x / 32] = least[i];
  }
  __syncthreads();
  for (int i = 0; i < 4; ++i) {
    for (int warp = 0; warp < kWarps; ++warp) least[i] = math::min2(warps[i][warp], least[i]);
  }
  // Any finite values will do where the centres have no extent.
  const double left = least[0] < kInfinity ? least[0] : 0;
  const double top = least[1] < kInfinity ? least[1] : 0;
  const double width = -least[2] - left;
  const double height = -least[3] - top;
  return {left, top, width > 0 ? math::min2(side / width, 1e300) : 1.0,
          height > 0 ? math::min2(side / height, 1e300) : 1.0};
}

template <class C>
__device__ __forceinline__ int cell_of(const NmsGrid& grid, int side, const math::Box<C>& box) {
  if (is_inert(box)) return 0;
  return cell_along(centre_y(box), grid.top, grid.per_y, side) * side +
         cell_along(centre_x(box), grid.left, grid.per_x, side);
}

// Inclusive.
struct CellRange {
  int left, right, top, bottom;
};

// The cells of all boxes whose IoU with `box` may be above the threshold that `reach` belongs to.
template <class C>
__device__ CellRange cells_near(const NmsGrid& grid, int side, const math::Box<C>& box, double reach) {
  constexpr C kSmallestArea = sizeof(C) == 8 ? C(1e-280) : C(1e-28);
  constexpr C kLargestArea = sizeof(C) == 8 ? C(1e280) : C(1e28);
  const C area = math::area(box);
  const bool bounded = reach <= std::numeric_limits<double>::max();
  if (bounded && is_inert(box)) return {0, -1, 0, -1};
  // For areas that are subnormal or almost overflow the IoU may be off by more than rounding.
  if (!bounded || !(area >= kSmallestArea && area <= kLargestArea)) return {0, side - 1, 0, side - 1};
  constexpr double kRounding = 1e-14;  // of centres
  const double x = centre_x(box);
  const double y = centre_y(box);
  const double reach_x = reach * (double(box.x2) - double(box.x1)) * (1 + kRounding) + kRounding * fabs(x);
  const double reach_y = reach * (double(box.y2) - double(box.y1)) * (1 + kRounding) + kRounding * fabs(y);
  return {cell_along(x - reach_x, grid.left, grid.per_x, side), cell_along(x + reach_x, grid.left, grid.per_x, side),
          cell_along(y - reach_y, grid.top, grid.per_y, side), cell_along(y + reach_y, grid.top, grid.per_y, side)};
}

}  // namespace retinanet_fast
