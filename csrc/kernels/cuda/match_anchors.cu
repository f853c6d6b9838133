// Each anchor's box by the rule of kernels/match_anchors.h, from the IoU of math/box.h.
//
// One thread per anchor, which it keeps in registers. A warp's 32 anchors are neighbours of similar size, so only few
// boxes can reach with any of them an IoU that matters: each lane compares one box with the hull of all 32 anchors. The
// boxes that remain lie in shared memory, and each lane compares them with its anchor, kBoxesOfStep at a time and
// without a division, which only the IoUs that may matter get. What is skipped changes no result; each kernel says why.
// A warp of large anchors may have to take all boxes, so the blocks of the last anchors, the largest of a grid, start
// first.
//   prepare_kernel   one warp per box: on a grid, its best IoU with the anchors nearest to its centre, one per shape.
//   best_iou_kernel  each box's best IoU, in one pass for the boxes of all images, since these share the anchors.
//   match_kernel     each anchor's best box, the first on ties, for kImagesOfBlock images per block. The IoUs are
//                    computed again, with the same bits.
// Moves the boxes (through the cache) and 4 or 8 bytes per anchor and image; no storage grows with anchors times boxes.
// A box without area is reported through host memory and matches nothing; neither does a row that is padding.
// Deterministic: atomics are maxima of the bits of numbers >= 0 and integer sums, which do not depend on the order of
// threads.
#include "kernels/match_anchors.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace retinanet_fast {
inline namespace match_anchors_cu {

using namespace math;

constexpr int kThreads = 128;
constexpr int kBlocks = 8;             // per multiprocessor: so few leave registers for all boxes of a step
constexpr int kBoxesOfStep = 4;        // whose latencies overlap
constexpr int kBoxesOfBlock = 256;     // of best_iou_kernel
constexpr int kImagesOfBlock = 4;      // of match_kernel
constexpr int kImagesPerLaunch = 256;  // whose offsets are kernel arguments
constexpr unsigned kAllLanes = 0xffffffffu;

// The images of one launch.
struct ImageBatch {
  int32_t offsets[kImagesPerLaunch + 1];
  int32_t count;
  int64_t first;
};

__device__ void atomic_max(float* to, float value) { atomicMax(reinterpret_cast<int*>(to), __float_as_int(value)); }

__device__ void atomic_max(double* to, double value) {
  atomicMax(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(__double_as_longlong(value)));
}

// Anchor `index`, as anchor_at() gives it, in 32-bit arithmetic.
template <class C>
__device__ Box<C> anchor_of(const Anchors& anchors, uint32_t index) {
  if (anchors.boxes) return anchor_at<C>(anchors, index);
  const int l = anchor_level(anchors, index);
  const AnchorLevel& level = anchors.levels[l];
  const uint32_t within = index - uint32_t(level.first_anchor);
  const uint32_t cell = within / uint32_t(anchors.anchors_per_cell);
  const uint32_t k = within - cell * uint32_t(anchors.anchors_per_cell);
  const uint32_t y = cell / uint32_t(level.width);
  return anchor_at<C>(anchors, index, l, y, cell - y * uint32_t(level.width), k);
}

// An IoU I / U, as rounded, that is at least `bound` has an I of at least lowered(bound) * U, as rounded: the factor is
// lower by more than the roundings, and that of a product cannot pass the number I. A quotient below the normal numbers
// may be rounded by more, so such a bound rules nothing out.
template <class C>
__device__ C lowered(C bound) {
  return bound >= std::numeric_limits<C>::min() ? bound * C(1 - 1e-5) : C(0);
}

// A box as a warp keeps it for its lanes.
template <class C>
struct NearBox {
  Box<C> box;
  C area;
  C low;   // lowered(best)
  C best;  // an IoU: a lane looks at those that reach it
  int32_t row;
};

// Intersection and union, with the bits that math/box.h gives them where the boxes overlap; else the intersection is no
// number above 0. CUDA's minimum and maximum are one instruction each, but drop a NaN: no corner may be one.
template <class C>
struct Overlap {
  C inter, union_;

  __device__ Overlap(const Box<C>& a, C area_a, const Box<C>& b, C area_b) {
    const C width = fmax(C(0), fmin(a.x2, b.x2) - fmax(a.x1, b.x1));
    const C height = fmin(a.y2, b.y2) - fmax(a.y1, b.y1);
    inter = mul_exact(width, height);
    union_ = area_a + area_b - inter;
  }
};

// A thread's anchor, and the hull and sizes of the anchors of its warp.
template <class C>
struct WarpAnchors {
  Box<C> box;
  C area;
  Box<C> hull;
  C smallest, largest;  // area

  // An anchor whose IoU with every box is 0 or NaN (no area, an infinite one, a NaN), and one behind the last anchor,
  // becomes a box that overlaps nothing and leaves the hull as it is.
  __device__ WarpAnchors(const Anchors& anchors, int64_t index) {
    constexpr C infinity = std::numeric_limits<C>::infinity();
    constexpr Box<C> nothing{infinity, infinity, -infinity, -infinity};
    box = index < anchors.num_anchors ? anchor_of<C>(anchors, uint32_t(index)) : nothing;
    area = math::area(box);
    const bool overlaps = box.x1 < box.x2 && box.y1 < box.y2 && area < infinity;
    if (!overlaps) {
      box = nothing;
      area = infinity;
    }
    hull = {warp_min(box.x1), warp_min(box.y1), warp_max(box.x2), warp_max(box.y2)};
    smallest = warp_min(area);
    largest = warp_max(overlaps ? area : C(0));
  }

  // False only where the IoU of `gt` with every anchor of the warp is 0 or less than the bound that was lowered to
  // `low`. An IoU I / U is at most I / G and I / A, the areas of `gt` and the anchor, and I at most G, A and the
  // intersection of `gt` with the hull.
  __device__ bool may_reach(const NearBox<C>& gt, C low) const {
    const C width = fmin(gt.box.x2, hull.x2) - fmax(gt.box.x1, hull.x1);
    const C height = fmin(gt.box.y2, hull.y2) - fmax(gt.box.y1, hull.y1);
    const C inter = width * height;
    return width > C(0) && height > C(0) && fmin(inter, largest) >= low * gt.area &&
           fmin(inter, gt.area) >= low * smallest;
  }

  // Collects in `list` each lane's box, first those with a bit in `near`, in their order. Bit i of the result says that
  // list[i] and the lane's anchor may have an IoU that reaches list[i].best or the bound that was lowered to `low`. (It
  // may also be set for the next few boxes after those that are near: their exact IoU then says that they do not
  // matter.)
  __device__ unsigned reached(NearBox<C>* list, const NearBox<C>& mine, unsigned near, C low) const {
    const int lane = threadIdx.x % 32;
    const unsigned before = (1u << lane) - 1;
    const int count = __popc(near);
    __syncwarp();
    list[near >> lane & 1 ? __popc(near & before) : count + __popc(~near & before)] = mine;
    __syncwarp();
    unsigned result = 0;
#pragma unroll 1
    for (int first = 0; first < count; first += kBoxesOfStep) {
      unsigned bits = 0;
#pragma unroll
      for (int i = 0; i < kBoxesOfStep; ++i) {
        const NearBox<C>& gt = list[first + i];
        const Overlap<C> overlap(gt.box, gt.area, box, area);
        bits |= overlap.inter >= fmin(low, gt.low) * overlap.union_ ? 1u << i : 0u;
      }
      result |= bits << first;
    }
    return result;
  }

  // The exact IoU if it is above 0.
  __device__ C iou_with(const NearBox<C>& gt) const {
    const Overlap<C> overlap(gt.box, gt.area, box, area);
    return overlap.inter / overlap.union_;
  }
};

// Box g with its number in `bests`, if g < end, else one that is near to nothing.
template <class C>
__device__ NearBox<C> box_at(const MatchAnchorsParams& p, const C* bests, int32_t g, int32_t end) {
  NearBox<C> result{};
  if (g < end) {
    result.box = load_box(static_cast<const C*>(p.gt_boxes) + 4 * int64_t(g));
    result.best = bests[g];
  }
  result.area = area(result.box);
  result.low = lowered(result.best);
  result.row = g;
  return result;
}

// The anchors' blocks, in the order of their start.
__device__ int64_t anchor_of_thread() { return int64_t(gridDim.x - 1 - blockIdx.x) * kThreads + threadIdx.x; }

// A lower bound of each box's best IoU, known before best_iou_kernel: the second half of the workspace.
template <class C>
__device__ C* known_iou(const MatchAnchorsParams& p) {
  return static_cast<C*>(p.best_iou) + p.num_boxes;
}

// The cell of a row or column whose anchor is nearest to `centre`. (Any other cell would be correct too, if slower.)
__device__ int64_t nearest_cell(double centre, double centre_of_first, int32_t stride, int32_t cells) {
  return int64_t(fmin(cells - 1.0, fmax(0.0, rint((centre - centre_of_first) / stride))));
}

// Whether `count` can be the number of boxes among `rows`.
__device__ bool is_count(int64_t count, int32_t rows) { return count >= 0 && count <= rows; }

// Where counts say how many rows are boxes, every image has as many rows: whether row g is one of the others.
__device__ bool is_padding(const MatchAnchorsParams& p, int32_t g) {
  if (!p.gt_counts) return false;
  const int32_t rows = int32_t(p.num_boxes / p.batch_size);
  const int64_t count = p.gt_counts[g / rows];
  return g % rows >= count || !is_count(count, rows);
}

// best_iou[g] becomes an IoU that some anchor has with box g, or 0; infinity for padding and for a box without area,
// which are skipped.
template <class C>
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(MatchAnchorsParams p, int32_t first_box, int32_t boxes, int64_t first_image, int32_t images) {
  const int32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i < images && p.num_foreground) p.num_foreground[first_image + i] = 0;
  if (i / 32 >= boxes) return;
  const int32_t g = first_box + i / 32;
  const Box<C> gt = load_box(static_cast<const C*>(p.gt_boxes) + 4 * int64_t(g));
  C best = has_area(gt) && !is_padding(p, g) ? C(0) : std::numeric_limits<C>::infinity();
  const int32_t shapes = p.anchors.boxes || best > C(0) ? 0 : p.anchors.num_levels * p.anchors.anchors_per_cell;
  for (int32_t shape = i % 32; shape < shapes; shape += 32) {
    const AnchorLevel& level = p.anchors.levels[shape / p.anchors.anchors_per_cell];
    if (level.height == 0 || level.width == 0) continue;
    const float* base = p.anchors.base_anchors + 4 * shape;
    const Box<float> anchor = grid_anchor(
        base, level,
        nearest_cell((double(gt.y1) + gt.y2) / 2, (double(base[1]) + base[3]) / 2, level.stride_y, level.height),
        nearest_cell((double(gt.x1) + gt.x2) / 2, (double(base[0]) + base[2]) / 2, level.stride_x, level.width));
    const Box<C> box = {C(anchor.x1), C(anchor.y1), C(anchor.x2), C(anchor.y2)};
    const C value = iou(gt, area(gt), box, area(box));
    if (value > best) best = value;
  }
  best = warp_max(best);
  if (i % 32 == 0) static_cast<C*>(p.best_iou)[g] = known_iou<C>(p)[g] = best;
}

// Skips the boxes whose IoU with a warp's anchors is below their known IoU with some anchor: it is not their best.
template <class C>
__global__ void __launch_bounds__(kThreads, kBlocks)
    best_iou_kernel(MatchAnchorsParams p, int32_t first_box, int32_t end_box) {
  __shared__ NearBox<C> lists[kThreads / 32][32];
  NearBox<C>* list = lists[threadIdx.x / 32];
  const WarpAnchors<C> anchors(p.anchors, anchor_of_thread());
  const int32_t first = first_box + int32_t(blockIdx.y) * kBoxesOfBlock;
  const int32_t end = min2(first + kBoxesOfBlock, end_box);
  for (int32_t begin = first; begin < end; begin += 32) {
    const NearBox<C> mine = box_at(p, known_iou<C>(p), begin + int32_t(threadIdx.x % 32), end);
    const unsigned near = __ballot_sync(kAllLanes, anchors.may_reach(mine, mine.low));
    if (near == 0) continue;
    const unsigned reached = anchors.reached(list, mine, near, std::numeric_limits<C>::infinity());
    for (unsigned rest = warp_or(reached); rest != 0; rest &= rest - 1) {
      const NearBox<C>& gt = list[__ffs(int(rest)) - 1];
      const C value = anchors.iou_with(gt);
      const C warps_best = warp_max(value > C(0) ? value : C(0));
      if (threadIdx.x % 32 == 0 && warps_best > gt.best) atomic_max(static_cast<C*>(p.best_iou) + gt.row, warps_best);
    }
  }
}

// What holds for all anchors of an image.
template <class C>
struct ImageRule {
  C low;         // of an IoU with some box that an anchor reaches which is not background, unless `nowhere`
  bool any;      // there is a box with area
  bool nowhere;  // some box's best IoU is 0, so that every anchor has it
  int32_t end;   // of its boxes
};

// The rule of the image that has rows [first, end), found by a warp. The first block reports a box without area, and a
// number of boxes that is none, which counts as 0.
template <class C>
__device__ ImageRule<C> image_rule(const MatchAnchorsParams& p, int64_t image, int32_t first, int32_t end) {
  constexpr C infinity = std::numeric_limits<C>::infinity();
  if (p.gt_counts) {
    const int64_t count = p.gt_counts[image];
    const bool valid = is_count(count, end - first);
    if (!valid && blockIdx.x == 0 && threadIdx.x % 32 == 0 && p.bad_box) {
      *p.bad_box = bad_box_code(image, kBadCountRow);
    }
    end = first + (valid ? int32_t(count) : 0);
  }
  C least = infinity;
  for (int32_t g = first + int32_t(threadIdx.x % 32); g < end; g += 32) {
    const C best = static_cast<const C*>(p.best_iou)[g];
    if (best == infinity && blockIdx.x == 0 && p.bad_box) *p.bad_box = bad_box_code(image, g - first);
    least = fmin(least, best);
  }
  least = warp_min(least);
  const bool nowhere = p.rule.allow_low_quality_matches && p.rule.match_zero_iou && least == C(0);
  const C bound = p.rule.allow_low_quality_matches ? min2(least, C(p.rule.low_threshold)) : C(p.rule.low_threshold);
  return {lowered(bound), least < infinity, nowhere, end};
}

template <class C>
__global__ void __launch_bounds__(kThreads, kBlocks) match_kernel(MatchAnchorsParams p, ImageBatch batch) {
  __shared__ ImageRule<C> rules[kImagesOfBlock];
  __shared__ NearBox<C> lists[kThreads / 32][32];
  NearBox<C>* list = lists[threadIdx.x / 32];
  const int lane = threadIdx.x % 32;
  const int first_image = blockIdx.y * kImagesOfBlock;
  const int images = min2(kImagesOfBlock, int(batch.count) - first_image);
  for (int i = threadIdx.x / 32; i < images; i += kThreads / 32) {
    const int at = first_image + i;
    const ImageRule<C> rule = image_rule<C>(p, batch.first + at, batch.offsets[at], batch.offsets[at + 1]);
    if (lane == 0) rules[i] = rule;
  }
  const int64_t index = anchor_of_thread();
  const bool inside = index < p.anchors.num_anchors;
  const WarpAnchors<C> anchors(p.anchors, index);
  const C high(p.rule.high_threshold), low(p.rule.low_threshold);
  __syncthreads();
  for (int i = 0; i < images; ++i) {
    const int64_t image = batch.first + first_image + i;
    const int32_t first = batch.offsets[first_image + i];
    const ImageRule<C> rule = rules[i];
    C best = 0;
    int32_t row = first;
    bool restored = rule.nowhere;
    for (int32_t begin = first; begin < rule.end; begin += 32) {
      const NearBox<C> mine = box_at(p, static_cast<const C*>(p.best_iou), begin + lane, rule.end);
      const unsigned near = __ballot_sync(kAllLanes, anchors.may_reach(mine, rule.low));
      if (near == 0) continue;
      unsigned reached = anchors.reached(list, mine, near, max2(lowered(best), rule.low));
      for (; reached != 0; reached &= reached - 1) {
        const NearBox<C>& gt = list[__ffs(int(reached)) - 1];
        const C value = anchors.iou_with(gt);
        if (value > best) {
          best = value;
          row = gt.row;
        }
        restored |= value == gt.best && value > C(0) && p.rule.allow_low_quality_matches;
      }
    }
    int32_t match = kMatchBackground;
    if (rule.any) match = match_of(best, row, restored, high, low);
    const unsigned foreground = __ballot_sync(kAllLanes, inside && match >= 0);
    if (lane == 0 && foreground && p.num_foreground) atomicAdd(p.num_foreground + image, __popc(foreground));
    if (!inside) continue;
    const int64_t to = image * p.anchors.num_anchors + index;
    if (p.wide_matches) {
      static_cast<int64_t*>(p.matches)[to] = match >= 0 ? match - first : match;
    } else {
      static_cast<int32_t*>(p.matches)[to] = match;
    }
  }
}

template <class C>
Status match_batch(const MatchAnchorsParams& p, const ImageBatch& batch, CudaStream stream) {
  const dim3 threads(kThreads);
  const unsigned blocks(ceil_div(p.anchors.num_anchors, kThreads));
  const int32_t first_box = batch.offsets[0];
  const int32_t end_box = batch.offsets[batch.count];
  const int32_t boxes = end_box - first_box;
  const dim3 all(blocks_of(ceil_div(max2(int64_t(boxes) * 32, int64_t(batch.count)), kThreads)));
  Status status = launch(prepare_kernel<C>, all, threads, 0, stream, p, first_box, boxes, batch.first, batch.count);
  if (status.ok() && p.rule.allow_low_quality_matches) {
    const dim3 grid(blocks, unsigned(ceil_div(boxes, kBoxesOfBlock)));
    status = launch(best_iou_kernel<C>, grid, threads, 0, stream, p, first_box, end_box);
  }
  if (status.ok()) {
    const dim3 grid(blocks, unsigned(ceil_div(batch.count, kImagesOfBlock)));
    status = launch(match_kernel<C>, grid, threads, 0, stream, p, batch);
  }
  return status;
}

}  // namespace match_anchors_cu

Status match_anchors_cuda(const MatchAnchorsParams& p, CudaStream stream) {
  if (p.anchors.num_anchors > std::numeric_limits<uint32_t>::max()) {
    return {Status::Code::kCuda, -1, int64_t(cudaErrorInvalidValue)};
  }
  for (int64_t first = 0; first < p.batch_size; first += kImagesPerLaunch) {
    ImageBatch batch{};
    batch.first = first;
    batch.count = int32_t(min2(int64_t(kImagesPerLaunch), p.batch_size - first));
    for (int i = 0; i <= batch.count; ++i) batch.offsets[i] = int32_t(p.gt_offsets[first + i]);
    const Status status =
        p.dtype == DType::kFloat64 ? match_batch<double>(p, batch, stream) : match_batch<float>(p, batch, stream);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace retinanet_fast
