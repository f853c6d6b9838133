// Anchors in tiles of consecutive ones: a tile's corners are made once, as separate arrays, for all images and boxes;
// a box that misses the tile's bounding box is skipped, since its IoU is 0 with all of the tile; for the others the
// compiler vectorises over the tile's anchors. First pass: each box's best IoU. Second pass: each anchor's best box.
#include "kernels/match_anchors.h"

#include <type_traits>

#include "kernels/cpu/kernels.h"

namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL {

using namespace math;

namespace {

constexpr int kTile = 128;
constexpr int64_t kTaskAnchors = 16 * kTile;

// Stands for a best IoU that no anchor's equals.
template <class C>
constexpr C kNoIou = C(-1);

template <class C>
struct Tile {
  alignas(64) C x1[kTile];
  alignas(64) C y1[kTile];
  alignas(64) C x2[kTile];
  alignas(64) C y2[kTile];
  alignas(64) C area[kTile];
  Box<C> bounds;
  int64_t first;
  int count;

  RETINANET_FAST_INLINE Box<C> box(int i) const { return {x1[i], y1[i], x2[i], y2[i]}; }

  RETINANET_FAST_INLINE bool touches(const Box<C>& other) const {
    return other.x1 < bounds.x2 && other.x2 > bounds.x1 && other.y1 < bounds.y2 && other.y2 > bounds.y1;
  }

  RETINANET_FAST_INLINE void set(int i, const Box<C>& box) {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
  }

  // Areas, bounds, and beyond `count` anchors that nothing overlaps.
  RETINANET_FAST_INLINE void finish() {
    for (int i = count; i < kTile; ++i) set(i, box(count - 1));
    constexpr C infinity = std::numeric_limits<C>::infinity();
    C low_x = infinity, low_y = infinity, high_x = -infinity, high_y = -infinity;
#pragma omp simd reduction(min : low_x, low_y) reduction(max : high_x, high_y)
    for (int i = 0; i < kTile; ++i) {
      area[i] = math::area(box(i));
      low_x = min2(x1[i], low_x);
      low_y = min2(y1[i], low_y);
      high_x = max2(x2[i], high_x);
      high_y = max2(y2[i], high_y);
    }
    bounds = {low_x, low_y, high_x, high_y};
  }
};

// Walks over consecutive anchors of a grid without dividing.
class GridCursor {
 public:
  GridCursor(const Anchors& anchors, int64_t index) : anchors_(anchors), level_(anchor_level(anchors, index)) {
    const int64_t within = index - anchors.level[level_].first;
    const int64_t cell = within / anchors.per_cell;
    k_ = int32_t(within % anchors.per_cell);
    y_ = int32_t(cell / anchors.level[level_].width);
    x_ = int32_t(cell % anchors.level[level_].width);
  }

  // Writes up to `space` anchors of the current cell from `i` on and returns how many; moves behind them.
  template <class C>
  RETINANET_FAST_INLINE int fill_cell(Tile<C>& tile, int i, int space) {
    const AnchorLevel& level = anchors_.level[level_];
    const float* base = anchors_.base + 4 * (int64_t(level_) * anchors_.per_cell + k_);
    const int n = min2(space, anchors_.per_cell - k_);
    for (int j = 0; j < n; ++j) {
      const Box<float> box = grid_anchor(base + 4 * j, level, y_, x_);
      tile.set(i + j, Box<C>{C(box.x1), C(box.y1), C(box.x2), C(box.y2)});
    }
    advance(n);
    return n;
  }

 private:
  RETINANET_FAST_INLINE void advance(int n) {
    k_ += n;
    if (k_ < anchors_.per_cell) return;
    k_ = 0;
    if (++x_ < anchors_.level[level_].width) return;
    x_ = 0;
    if (++y_ < anchors_.level[level_].height) return;
    y_ = 0;
    do ++level_;
    while (level_ < anchors_.levels && int64_t(anchors_.level[level_].height) * anchors_.level[level_].width == 0);
  }

  const Anchors& anchors_;
  int32_t level_, y_, x_, k_;
};

template <class C, class Body>
RETINANET_FAST_INLINE void for_each_tile(const Anchors& anchors, int64_t begin, int64_t end, const Body& body) {
  Tile<C> tile;
  if (anchors.boxes) {
    for (tile.first = begin; tile.first < end; tile.first += kTile) {
      tile.count = int(min2(int64_t(kTile), end - tile.first));
      for (int i = 0; i < tile.count; ++i) tile.set(i, anchor_at<C>(anchors, tile.first + i));
      tile.finish();
      body(tile);
    }
    return;
  }
  GridCursor cursor(anchors, begin);
  for (tile.first = begin; tile.first < end; tile.first += kTile) {
    tile.count = int(min2(int64_t(kTile), end - tile.first));
    for (int i = 0; i < tile.count;) i += cursor.fill_cell(tile, i, tile.count - i);
    tile.finish();
    body(tile);
  }
}

template <class C>
RETINANET_FAST_INLINE C best_in_tile(const Tile<C>& tile, const Box<C>& gt) {
  const C gt_area = area(gt);
  C best = 0;
#pragma omp simd reduction(max : best)
  for (int i = 0; i < kTile; ++i) best = max2(iou(gt, gt_area, tile.box(i), tile.area[i]), best);
  return best;
}

// value = max(value, candidate) for numbers that are not negative, whose bits are ordered as they are.
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
struct TileMatch {
  alignas(64) C best[kTile];
  alignas(64) int32_t box[kTile];
  alignas(64) int32_t restored[kTile];

  RETINANET_FAST_INLINE void clear(bool all_restored) {
    for (int i = 0; i < kTile; ++i) {
      best[i] = 0;
      box[i] = 0;
      restored[i] = all_restored;
    }
  }

  // Boxes come in order, so that on ties the first stays.
  RETINANET_FAST_INLINE void add(const Tile<C>& tile, const Box<C>& gt, int32_t index, C best_of_gt) {
    const C gt_area = area(gt);
#pragma omp simd
    for (int i = 0; i < kTile; ++i) {
      const C value = iou(gt, gt_area, tile.box(i), tile.area[i]);
      box[i] = value > best[i] ? index : box[i];
      best[i] = value > best[i] ? value : best[i];
      restored[i] = value == best_of_gt ? 1 : restored[i];
    }
  }
};

template <class C>
class Matcher {
 public:
  explicit Matcher(const MatchAnchorsParams& params)
      : p_(params), gt_boxes_(static_cast<const C*>(params.gt_boxes)), best_iou_(static_cast<C*>(params.best_iou)) {}

  Status run(const Executor& executor) const {
    if (const Status status = check_boxes(); !status.ok()) return status;
    const int64_t tasks = ceil_div(p_.anchors.count, kTaskAnchors);
    const auto for_each_task = [&](const auto& body) {
      executor.parallel_for(tasks, [&](int64_t task) {
        const int64_t begin = task * kTaskAnchors;
        for_each_tile<C>(p_.anchors, begin, min2(p_.anchors.count, begin + kTaskAnchors), body);
      });
    };
    if (p_.rule.allow_low_quality) {
      for (int64_t g = 0; g < p_.gt_offsets[p_.images]; ++g) best_iou_[g] = 0;
      for_each_task([&](const Tile<C>& tile) { raise_best_iou(tile); });
    }
    if (p_.num_foreground) {
      for (int64_t image = 0; image < p_.images; ++image) p_.num_foreground[image] = 0;
    }
    for_each_task([&](const Tile<C>& tile) {
      for (int64_t image = 0; image < p_.images; ++image) match(tile, image);
    });
    return {};
  }

 private:
  Status check_boxes() const {
    for (int64_t image = 0; image < p_.images; ++image) {
      for (int64_t g = p_.gt_offsets[image]; g < p_.gt_offsets[image + 1]; ++g) {
        if (!has_area(gt(g))) return {Status::Code::kBadBox, g - p_.gt_offsets[image], image};
      }
    }
    return {};
  }

  Box<C> gt(int64_t g) const { return load_box(gt_boxes_ + 4 * g); }

  void raise_best_iou(const Tile<C>& tile) const {
    for (int64_t g = 0; g < p_.gt_offsets[p_.images]; ++g) {
      const Box<C> box = gt(g);
      if (!tile.touches(box)) continue;
      const C best = best_in_tile(tile, box);
      if (best > 0) raise_to(best_iou_ + g, best);
    }
  }

  void match(const Tile<C>& tile, int64_t image) const {
    const int64_t begin = p_.gt_offsets[image];
    const int64_t end = p_.gt_offsets[image + 1];
    if (begin == end) {
      write(tile, image, [](int) { return kMatchBackground; });
      return;
    }
    TileMatch<C> found;
    found.clear(p_.rule.allow_low_quality && p_.rule.match_zero_iou && any_without_overlap(begin, end));
    for (int64_t g = begin; g < end; ++g) {
      const Box<C> box = gt(g);
      if (!tile.touches(box)) continue;
      const bool restores = p_.rule.allow_low_quality && best_iou_[g] > 0;
      found.add(tile, box, int32_t(g - begin), restores ? best_iou_[g] : kNoIou<C>);
    }
    const C high = C(p_.rule.high_threshold);
    const C low = C(p_.rule.low_threshold);
    write(tile, image, [&](int i) { return match_of(found.best[i], found.box[i], found.restored[i] != 0, high, low); });
  }

  // A box of best IoU 0 has it with every anchor.
  bool any_without_overlap(int64_t begin, int64_t end) const {
    bool found = false;
    for (int64_t g = begin; g < end; ++g) found |= best_iou_[g] == 0;
    return found;
  }

  template <class F>
  void write(const Tile<C>& tile, int64_t image, const F& match_at) const {
    int32_t foreground = 0;
    const int64_t begin = p_.gt_offsets[image];
    const int64_t first = image * p_.anchors.count + tile.first;
    for (int i = 0; i < tile.count; ++i) {
      const int32_t match = match_at(i);
      foreground += match >= 0;
      if (p_.wide_matches) {
        static_cast<int64_t*>(p_.matches)[first + i] = match;
      } else {
        static_cast<int32_t*>(p_.matches)[first + i] = match >= 0 ? int32_t(begin) + match : match;
      }
    }
    if (p_.num_foreground && foreground) __atomic_fetch_add(p_.num_foreground + image, foreground, __ATOMIC_RELAXED);
  }

  const MatchAnchorsParams& p_;
  const C* gt_boxes_;
  C* best_iou_;
};

}  // namespace

Status match_anchors(const MatchAnchorsParams& p, const Executor& executor) {
  return p.dtype == DType::kFloat64 ? Matcher<double>(p).run(executor) : Matcher<float>(p).run(executor);
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL
