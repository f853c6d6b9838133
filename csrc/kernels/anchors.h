// Anchors as kernels take them: as corners, or as the grid that generates them, so that they need not be stored.
#pragma once

#include "kernels/head_levels.h"
#include "math/box.h"

namespace retinanet_fast {

struct AnchorLevel {
  int64_t first_anchor;  // index of the level's first anchor
  int32_t height;        // cells
  int32_t width;
  int32_t stride_y;  // pixels
  int32_t stride_x;
};

// Anchors are ordered by level, y, x, k.
struct Anchors {
  const void* boxes;          // [A, 4] of `boxes_dtype`, or null for a grid
  const float* base_anchors;  // [L, K, 4], centred at the origin
  AnchorLevel levels[kMaxLevels];
  int32_t num_levels;        // L
  int32_t anchors_per_cell;  // K
  int64_t num_anchors;       // A
  DType boxes_dtype;         // float64 or float32
};

// Anchor k of cell (y, x), rounded as AnchorGrid.boxes() rounds: shifts are added in float.
RETINANET_FAST_INLINE math::Box<float> grid_anchor(const float* base_anchor, const AnchorLevel& level, int64_t y,
                                                   int64_t x) {
  const float shift_x = float(x * level.stride_x);
  const float shift_y = float(y * level.stride_y);
  return {base_anchor[0] + shift_x, base_anchor[1] + shift_y, base_anchor[2] + shift_x, base_anchor[3] + shift_y};
}

RETINANET_FAST_INLINE int anchor_level(const Anchors& anchors, int64_t index) {
  int level = 0;
  while (level + 1 < anchors.num_levels && index >= anchors.levels[level + 1].first_anchor) ++level;
  return level;
}

// Anchor `index` over all levels, on a grid anchor k of cell (y, x) of level l, as a box of C.
template <class C>
RETINANET_FAST_INLINE math::Box<C> anchor_at(const Anchors& anchors, int64_t index, int64_t l, int64_t y, int64_t x,
                                             int64_t k) {
  if (anchors.boxes) {
    if (anchors.boxes_dtype == DType::kFloat64) {
      const auto box = math::load_box(static_cast<const double*>(anchors.boxes) + 4 * index);
      return {C(box.x1), C(box.y1), C(box.x2), C(box.y2)};
    }
    const auto box = math::load_box(static_cast<const float*>(anchors.boxes) + 4 * index);
    return {C(box.x1), C(box.y1), C(box.x2), C(box.y2)};
  }
  const auto box = grid_anchor(anchors.base_anchors + 4 * (l * anchors.anchors_per_cell + k), anchors.levels[l], y, x);
  return {C(box.x1), C(box.y1), C(box.x2), C(box.y2)};
}

template <class C>
RETINANET_FAST_INLINE math::Box<C> anchor_at(const Anchors& anchors, int64_t index) {
  if (anchors.boxes) return anchor_at<C>(anchors, index, 0, 0, 0, 0);
  const int l = anchor_level(anchors, index);
  const AnchorLevel& level = anchors.levels[l];
  const int64_t within = index - level.first_anchor;
  const int64_t cell = within / anchors.anchors_per_cell;
  const int64_t y = cell / level.width;
  return anchor_at<C>(anchors, index, l, y, cell - y * level.width, within - cell * anchors.anchors_per_cell);
}

}  // namespace retinanet_fast
