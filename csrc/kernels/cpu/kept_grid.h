// Kept boxes in a grid, so that a candidate is compared only with those near it and of similar size: time grows with
// the number of boxes, not of pairs. Included by CPU kernels only.
//
// Two boxes with IoU > t have, in exact arithmetic and along each axis, with sides w >= w':
//   t w < intersection <= w'                   so their sides differ by less than a factor of 1 / t, and
//   |centre - centre'| <= (w + w') / 2 - t w   so their centres are at most w (1 - t) max(1, 1 / (2 t)) apart, for w
//                                              the side of either.
// A box lies in the level of its longer side (the limit doubles from level to level), in the cell of its centre. A t
// lower than the threshold by kSlack makes up for the roundings of the IoU in floating point.
#pragma once

#include "kernels/cpu/kept_boxes.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

template <class C>
class KeptGrid {
 public:
  // For `n` boxes, the i-th of which is box_of(i). False where these boxes or the threshold rule a grid out.
  template <class BoxOf>
  bool lay_out(int64_t n, const BoxOf& box_of, const math::IouThreshold<C>& threshold, KeptPool<C> pool,
               KeptChain* cells) {
    constexpr double kLowestThreshold = 0.05;  // below, too little can be ruled out
    constexpr double kSlack = 1e-5;
    if (n < kFewestBoxes || !(double(threshold.value) >= kLowestThreshold)) return false;
    similar_ = math::min2(0.999, double(threshold.value)) * (1 - kSlack);
    reach_ = (1 - similar_) * math::max2(1.0, 0.5 / similar_);
    threshold_ = threshold;
    pool_ = pool;
    cells_ = cells;
    Extent extent;
    for (int64_t i = 0; i < n; ++i) {
      if (!extent.include(box_of(i))) return false;
    }
    set_levels(extent, n);
    return true;
  }

  bool keeps(const math::Box<C>& box) {
    if (is_inert(box)) return true;
    const Place at(box);
    const C area = math::area(box);
    const int level = level_of(at.size);
    KeptChain& own = cell(level, column(level, at.x), row(level, at.y));
    // A box of its own cell suppresses most of what is suppressed, so that cell comes first.
    if (pool_.suppresses(own, box, area, threshold_) || is_suppressed(box, area, at)) return false;
    pool_.add(own, box, area);
    return true;
  }

 private:
  struct Place {
    double x, y, w, h, size;

    explicit Place(const math::Box<C>& box)
        : x(0.5 * (double(box.x1) + double(box.x2))),
          y(0.5 * (double(box.y1) + double(box.y2))),
          w(double(box.x2) - double(box.x1)),
          h(double(box.y2) - double(box.y1)),
          size(math::max2(w, h)) {}
  };

  // No IoU with such a box is above a threshold >= 0: it is 0, or NaN.
  static bool is_inert(const math::Box<C>& box) {
    const C area = math::area(box);
    return !(box.x2 > box.x1 && box.y2 > box.y1 && area > C(0) && area <= std::numeric_limits<C>::max());
  }

  struct Extent {
    double left = INFINITY, top = INFINITY, right = -INFINITY, bottom = -INFINITY;
    double smallest = INFINITY, largest = 0, farthest = 0;

    // False for a box whose IoUs may be off by more than rounding: of subnormal or almost overflowing area.
    bool include(const math::Box<C>& box) {
      if (is_inert(box)) return true;
      constexpr C kSmallestArea = sizeof(C) == 8 ? C(1e-280) : C(1e-28);
      constexpr C kLargestArea = sizeof(C) == 8 ? C(1e280) : C(1e28);
      const C area = math::area(box);
      const Place at(box);
      left = math::min2(at.x, left);
      right = math::max2(at.x, right);
      top = math::min2(at.y, top);
      bottom = math::max2(at.y, bottom);
      smallest = math::min2(at.size, smallest);
      largest = math::max2(at.size, largest);
      farthest = math::max2(math::max2(std::fabs(at.x), std::fabs(at.y)), farthest);
      return area >= kSmallestArea && area <= kLargestArea;
    }
  };

  struct Level {
    double longest_side;
    double cells_per_pixel;
    int64_t columns, rows;
    int64_t first_cell;
  };

  // Begins with about one cell per box in the first level, and coarsens until the cells of all levels fit.
  void set_levels(const Extent& extent, int64_t n) {
    left_ = extent.left;
    top_ = extent.top;
    rounding_ = 1e-14 * extent.farthest;
    const double area = (extent.right - extent.left) * (extent.bottom - extent.top);
    double side = math::max2(extent.smallest, std::sqrt(area / double(n)));
    while (!fits(extent, side, n)) side *= 2;
  }

  bool fits(const Extent& extent, double side, int64_t n) {
    int64_t cells = 0;
    for (levels_ = 0; levels_ < kMaxLevels; side *= 2) {
      Level& level = level_[levels_++];
      level.longest_side = side;
      level.cells_per_pixel = kCellsPerSide / side;
      const double columns = (extent.right - extent.left) * level.cells_per_pixel + 1;
      const double rows = (extent.bottom - extent.top) * level.cells_per_pixel + 1;
      if (columns * rows > double(n)) return false;
      level.columns = int64_t(columns);
      level.rows = int64_t(rows);
      level.first_cell = cells;
      cells += level.columns * level.rows;
      if (cells > kept_cells_before(n, 0) + kMaxLevels) return false;
      if (side >= extent.largest) break;
    }
    for (int64_t i = 0; i < cells; ++i) cells_[i] = KeptChain{};
    return true;
  }

  int level_of(double size) const {
    int level = 0;
    while (level + 1 < levels_ && size > level_[level].longest_side) ++level;
    return level;
  }

  static int64_t clamped(double cell, int64_t cells) {
    return int64_t(math::max2(0.0, math::min2(double(cells - 1), cell)));
  }
  int64_t column(int level, double x) const {
    return clamped((x - left_) * level_[level].cells_per_pixel, level_[level].columns);
  }
  int64_t row(int level, double y) const {
    return clamped((y - top_) * level_[level].cells_per_pixel, level_[level].rows);
  }
  KeptChain& cell(int level, int64_t column, int64_t row) const {
    return cells_[level_[level].first_cell + row * level_[level].columns + column];
  }

  bool is_suppressed(const math::Box<C>& box, C area, const Place& at) const {
    const int last = level_of(at.size / similar_);
    const double reach_x = reach_ * at.w + rounding_;
    const double reach_y = reach_ * at.h + rounding_;
    for (int level = level_of(at.size * similar_); level <= last; ++level) {
      const int64_t first_column = column(level, at.x - reach_x);
      const int64_t last_column = column(level, at.x + reach_x);
      const int64_t last_row = row(level, at.y + reach_y);
      for (int64_t y = row(level, at.y - reach_y); y <= last_row; ++y) {
        for (int64_t x = first_column; x <= last_column; ++x) {
          if (pool_.suppresses(cell(level, x, y), box, area, threshold_)) return true;
        }
      }
    }
    return false;
  }

  static constexpr int64_t kFewestBoxes = 256;
  static constexpr int kMaxLevels = kKeptGridLevels;
  static constexpr double kCellsPerSide = 1.0;

  math::IouThreshold<C> threshold_{0.0};
  KeptPool<C> pool_{};
  KeptChain* cells_ = nullptr;
  double similar_ = 0;  // where IoU > threshold, the shorter side is more than this times the longer one,
  double reach_ = 0;    // and the centres are no farther apart than this times either
  double left_ = 0, top_ = 0, rounding_ = 0;
  int levels_ = 0;
  Level level_[kMaxLevels];
};

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
