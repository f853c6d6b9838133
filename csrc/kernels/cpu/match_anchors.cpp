// Anchors are taken in strips of consecutive ones, as one array per corner, which all images and boxes share. A strip
// of a grid lies in one row of cells. There the anchors that can overlap a box lie side by side, so a box is compared
// with these alone, in vector code. The first pass finds each box's best IoU, the second each anchor's best box.
#include "kernels/match_anchors.h"

#include <type_traits>

#include "kernels/cpu/kernels.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

namespace {

constexpr int kStrip = 1024;    // anchors; a strip's arrays and matches fit the first-level cache
constexpr int kBoxStrip = 128;  // for anchors that are no grid, all of which a box nearby is compared with
constexpr int kLanes = 16;      // a box is compared with whole vectors of anchors
constexpr int64_t kTaskAnchors = 8192;

// A best IoU that no anchor has.
template <class C>
constexpr C kNoIou = C(-1);

struct Range {
  int begin, end;
};

template <class C>
struct alignas(64) Strip {
  C x1[kStrip];
  C y1[kStrip];
  C x2[kStrip];
  C y2[kStrip];
  C area[kStrip];
  Box<C> bounds;
  int64_t first;  // index of its first anchor
  int count;

  // Where the anchors lie along a row of cells; anchors that are no grid count as one cell.
  int64_t first_in_row = 0;
  int64_t anchors_per_cell = kBoxStrip;
  double cells_per_pixel = 0;
  double left = 0, right = 0;  // of the anchors of cell 0

  RETINANET_FAST_INLINE Box<C> box(int i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
  RETINANET_FAST_INLINE int padded() const { return (count + kLanes - 1) / kLanes * kLanes; }

  RETINANET_FAST_INLINE void set(int i, const Box<C>& box) {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
  }

  // Behind the last anchor the last vector is filled with boxes without area, whose IoU with any box is 0.
  RETINANET_FAST_INLINE void pad() {
    for (int i = count; i < padded(); ++i) set(i, {C(0), C(0), C(0), C(0)});
  }

  RETINANET_FAST_INLINE void set_areas() {
    for (int i = 0; i < padded(); ++i) area[i] = math::area(box(i));
  }

  // The anchors that can overlap `box`, and their neighbours; all others have an IoU of 0 with it.
  RETINANET_FAST_INLINE Range near(const Box<C>& box) const {
    if (!(box.x1 < bounds.x2 && box.x2 > bounds.x1 && box.y1 < bounds.y2 && box.y2 > bounds.y1)) return {0, 0};
    // One cell more on both sides, for the rounding of float corners: far less than a cell of up to a million in a row.
    const double first_cell = std::floor((double(box.x1) - right) * cells_per_pixel) - 1;
    const double last_cell = std::ceil((double(box.x2) - left) * cells_per_pixel) + 1;
    const auto place = [&](double cell) {
      return int(min2(double(count), max2(0.0, cell * double(anchors_per_cell) - double(first_in_row))));
    };
    return {place(first_cell) / kLanes * kLanes, (place(last_cell + 1) + kLanes - 1) / kLanes * kLanes};
  }
};

// A task on a grid: some columns of some rows of a level, one column per anchor of a row.
struct GridTask {
  int level;
  int64_t first_column, columns;
  int64_t first_row, rows;
};

struct GridTasks {
  int64_t columns, strips, rows, count;  // anchors per row, strips per row, rows per task, tasks

  GridTasks(const Anchors& anchors, int level)
      : columns(int64_t(anchors.levels[level].width) * anchors.anchors_per_cell),
        strips(ceil_div(columns, kStrip)),
        rows(kTaskAnchors / max2(int64_t(1), min2(columns, int64_t(kStrip))) + 1),
        count(strips * ceil_div(anchors.levels[level].height, rows)) {}
};

int64_t num_tasks(const Anchors& anchors) {
  if (anchors.boxes) return ceil_div(anchors.num_anchors, kTaskAnchors);
  int64_t count = 0;
  for (int level = 0; level < anchors.num_levels; ++level) count += GridTasks(anchors, level).count;
  return count;
}

GridTask grid_task(const Anchors& anchors, int64_t task) {
  int level = 0;
  while (task >= GridTasks(anchors, level).count) task -= GridTasks(anchors, level++).count;
  const GridTasks tasks(anchors, level);
  const int64_t first_column = task % tasks.strips * kStrip;
  const int64_t first_row = task / tasks.strips * tasks.rows;
  return {level, first_column, min2(int64_t(kStrip), tasks.columns - first_column), first_row,
          min2(tasks.rows, anchors.levels[level].height - first_row)};
}

template <class C, class Body>
RETINANET_FAST_INLINE void for_each_strip_of_grid(const Anchors& anchors, const GridTask& task, const Body& body) {
  const AnchorLevel& level = anchors.levels[task.level];
  const float* shapes = anchors.base_anchors + 4 * int64_t(task.level) * anchors.anchors_per_cell;
  Strip<C> strip;
  strip.count = int(task.columns);
  strip.first_in_row = task.first_column;
  strip.anchors_per_cell = anchors.anchors_per_cell;
  strip.cells_per_pixel = 1.0 / level.stride_x;
  // x does not depend on the row; y is the shape's, moved by the row's shift.
  float shape_y1[kStrip], shape_y2[kStrip];
  int64_t x = task.first_column / anchors.anchors_per_cell;
  int64_t k = task.first_column % anchors.anchors_per_cell;
  for (int i = 0; i < strip.count; ++i) {
    const Box<float> box = grid_anchor(shapes + 4 * k, level, 0, x);
    strip.x1[i] = C(box.x1);
    strip.x2[i] = C(box.x2);
    shape_y1[i] = box.y1;
    shape_y2[i] = box.y2;
    if (++k == anchors.anchors_per_cell) {
      k = 0;
      ++x;
    }
  }
  for (int i = strip.count; i < strip.padded(); ++i) strip.x1[i] = strip.x2[i] = shape_y1[i] = shape_y2[i] = 0;

  constexpr float infinity = std::numeric_limits<float>::infinity();
  float hull[4] = {infinity, infinity, -infinity, -infinity};  // of all shapes
  for (k = 0; k < anchors.anchors_per_cell; ++k) {
    for (int corner = 0; corner < 2; ++corner) hull[corner] = min2(shapes[4 * k + corner], hull[corner]);
    for (int corner = 2; corner < 4; ++corner) hull[corner] = max2(shapes[4 * k + corner], hull[corner]);
  }
  strip.left = double(hull[0]);
  strip.right = double(hull[2]);
  const Box<float> leftmost = grid_anchor(hull, level, 0, task.first_column / anchors.anchors_per_cell);
  const Box<float> rightmost = grid_anchor(hull, level, 0, x);

  for (int64_t y = task.first_row; y < task.first_row + task.rows; ++y) {
    const float shift = float(y * level.stride_y);
    strip.first = level.first_anchor + y * level.width * anchors.anchors_per_cell + task.first_column;
    strip.bounds = {C(leftmost.x1), C(hull[1] + shift), C(rightmost.x2), C(hull[3] + shift)};
    for (int i = 0; i < strip.padded(); ++i) {
      strip.y1[i] = C(shape_y1[i] + shift);
      strip.y2[i] = C(shape_y2[i] + shift);
    }
    strip.set_areas();
    body(strip);
  }
}

template <class C, class Body>
RETINANET_FAST_INLINE void for_each_strip_of_boxes(const Anchors& anchors, int64_t begin, int64_t end,
                                                   const Body& body) {
  constexpr C infinity = std::numeric_limits<C>::infinity();
  Strip<C> strip;
  for (strip.first = begin; strip.first < end; strip.first += kBoxStrip) {
    strip.count = int(min2(int64_t(kBoxStrip), end - strip.first));
    strip.bounds = {infinity, infinity, -infinity, -infinity};
    for (int i = 0; i < strip.count; ++i) {
      const Box<C> box = anchor_at<C>(anchors, strip.first + i);
      strip.set(i, box);
      strip.bounds = {min2(box.x1, strip.bounds.x1), min2(box.y1, strip.bounds.y1), max2(box.x2, strip.bounds.x2),
                      max2(box.y2, strip.bounds.y2)};
    }
    strip.pad();
    strip.set_areas();
    body(strip);
  }
}

template <class C>
RETINANET_FAST_INLINE C best_in(const Strip<C>& strip, Range range, const Box<C>& gt) {
  const C gt_area = area(gt);
  C lanes[kLanes] = {};
  for (int first = range.begin; first < range.end; first += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      lanes[i] = max2(iou(gt, gt_area, strip.box(first + i), strip.area[first + i]), lanes[i]);
    }
  }
  C best = 0;
  for (const C lane : lanes) best = max2(lane, best);
  return best;
}

// value = max(value, candidate), atomically, for numbers >= 0, whose bits are ordered like the numbers.
template <class C>
RETINANET_FAST_INLINE void raise_to(C* value, C candidate) {
  using Bits = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;
  Bits* target = reinterpret_cast<Bits*>(value);
  const Bits wanted = bit_cast<Bits>(candidate);
  Bits seen = __atomic_load_n(target, __ATOMIC_RELAXED);
  while (seen < wanted &&
         !__atomic_compare_exchange_n(target, &seen, wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

template <class C>
struct alignas(64) StripMatch {
  C best[kStrip];
  int32_t box[kStrip];
  int32_t restored[kStrip];

  RETINANET_FAST_INLINE void clear(int count, bool all_restored) {
    for (int i = 0; i < count; ++i) {
      best[i] = 0;
      box[i] = 0;
      restored[i] = all_restored;
    }
  }

  // Boxes are added in order, so that the first one wins ties.
  RETINANET_FAST_INLINE void add(const Strip<C>& strip, Range range, const Box<C>& gt, int32_t index, C best_of_gt) {
    const C gt_area = area(gt);
    for (int i = range.begin; i < range.end; ++i) {
      const C value = iou(gt, gt_area, strip.box(i), strip.area[i]);
      const C before = best[i];
      const int32_t better = -int32_t(value > before);  // a mask, since a selection would become a branch
      box[i] = (index & better) | (box[i] & ~better);
      best[i] = max2(value, before);
      restored[i] |= int32_t(value == best_of_gt);
    }
  }

  // Turns `box` into the matches.
  RETINANET_FAST_INLINE void decide(int count, C high, C low) {
    for (int i = 0; i < count; ++i) box[i] = match_of(best[i], box[i], restored[i] != 0, high, low);
  }
};

template <class C>
class Matcher {
 public:
  explicit Matcher(const MatchAnchorsParams& params)
      : p_(params), gt_boxes_(static_cast<const C*>(params.gt_boxes)), best_iou_(static_cast<C*>(params.best_iou)) {}

  Status run(const Executor& executor) const {
    if (const Status status = check_boxes(); !status.ok()) return status;
    const int64_t tasks = num_tasks(p_.anchors);
    const auto for_each_strip = [&](const auto& body) {
      executor.parallel_for(tasks, [&](int64_t task) {
        if (p_.anchors.boxes) {
          const int64_t begin = task * kTaskAnchors;
          for_each_strip_of_boxes<C>(p_.anchors, begin, min2(p_.anchors.num_anchors, begin + kTaskAnchors), body);
        } else {
          for_each_strip_of_grid<C>(p_.anchors, grid_task(p_.anchors, task), body);
        }
      });
    };
    if (p_.rule.allow_low_quality_matches) {
      for (int64_t g = 0; g < p_.num_boxes; ++g) best_iou_[g] = 0;
      for_each_strip([&](const Strip<C>& strip) { raise_best_iou(strip); });
    }
    if (p_.num_foreground) {
      for (int64_t image = 0; image < p_.batch_size; ++image) p_.num_foreground[image] = 0;
    }
    for_each_strip([&](const Strip<C>& strip) {
      for (int64_t image = 0; image < p_.batch_size; ++image) match(strip, image);
    });
    return {};
  }

 private:
  Status check_boxes() const {
    for (int64_t image = 0; image < p_.batch_size; ++image) {
      const int64_t rows = p_.gt_offsets[image + 1] - p_.gt_offsets[image];
      if (p_.gt_counts && (p_.gt_counts[image] < 0 || p_.gt_counts[image] > rows)) {
        return {Status::Code::kBadCount, -1, image};
      }
      for (int64_t g = p_.gt_offsets[image]; g < end_of(image); ++g) {
        if (!has_area(gt(g))) return {Status::Code::kBadBox, g - p_.gt_offsets[image], image};
      }
    }
    return {};
  }

  int64_t end_of(int64_t image) const {
    return p_.gt_counts ? p_.gt_offsets[image] + p_.gt_counts[image] : p_.gt_offsets[image + 1];
  }

  Box<C> gt(int64_t g) const { return load_box(gt_boxes_ + 4 * g); }

  void raise_best_iou(const Strip<C>& strip) const {
    for (int64_t image = 0; image < p_.batch_size; ++image) {
      for (int64_t g = p_.gt_offsets[image]; g < end_of(image); ++g) {
        const Box<C> box = gt(g);
        const Range range = strip.near(box);
        if (range.begin == range.end) continue;
        const C best = best_in(strip, range, box);
        if (best > 0) raise_to(best_iou_ + g, best);
      }
    }
  }

  void match(const Strip<C>& strip, int64_t image) const {
    const int64_t begin = p_.gt_offsets[image];
    const int64_t end = end_of(image);
    const bool all_restored =
        begin < end && p_.rule.allow_low_quality_matches && p_.rule.match_zero_iou && any_without_overlap(begin, end);
    StripMatch<C> found;
    bool touched = begin < end && (all_restored || C(p_.rule.low_threshold) <= 0);
    if (touched) found.clear(strip.padded(), all_restored);
    for (int64_t g = begin; g < end; ++g) {
      const Box<C> box = gt(g);
      const Range range = strip.near(box);
      if (range.begin == range.end) continue;
      if (!touched) found.clear(strip.padded(), false);
      touched = true;
      const bool restores = p_.rule.allow_low_quality_matches && best_iou_[g] > 0;
      found.add(strip, range, box, int32_t(g - begin), restores ? best_iou_[g] : kNoIou<C>);
    }
    if (touched) {
      found.decide(strip.count, C(p_.rule.high_threshold), C(p_.rule.low_threshold));
    } else {
      for (int i = 0; i < strip.count; ++i) found.box[i] = kMatchBackground;
    }
    write(strip, image, found.box);
  }

  // A box whose best IoU is 0 has that IoU with every anchor.
  bool any_without_overlap(int64_t begin, int64_t end) const {
    bool found = false;
    for (int64_t g = begin; g < end; ++g) found |= best_iou_[g] == 0;
    return found;
  }

  void write(const Strip<C>& strip, int64_t image, const int32_t* found) const {
    const int64_t to = image * p_.anchors.num_anchors + strip.first;
    if (p_.wide_matches) {
      int64_t* matches = static_cast<int64_t*>(p_.matches) + to;
      for (int i = 0; i < strip.count; ++i) matches[i] = found[i];
    } else {
      const int32_t first_box = int32_t(p_.gt_offsets[image]);
      int32_t* matches = static_cast<int32_t*>(p_.matches) + to;
      for (int i = 0; i < strip.count; ++i) matches[i] = found[i] >= 0 ? found[i] + first_box : found[i];
    }
    if (!p_.num_foreground) return;
    int32_t foreground = 0;
    for (int i = 0; i < strip.count; ++i) foreground += int32_t(found[i] >= 0);
    if (foreground > 0) __atomic_fetch_add(p_.num_foreground + image, foreground, __ATOMIC_RELAXED);
  }

  const MatchAnchorsParams& p_;
  const C* gt_boxes_;
  C* best_iou_;
};

}  // namespace

Status match_anchors(const MatchAnchorsParams& p, const Executor& executor) {
  return p.dtype == DType::kFloat64 ? Matcher<double>(p).run(executor) : Matcher<float>(p).run(executor);
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
