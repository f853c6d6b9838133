// Each anchor's box by the rule of kernels/match_anchors.h, from the IoU of math/box.h.
//
// One thread per anchor, which it keeps in registers. A warp's 32 anchors are neighbours of similar size, so only few
// boxes can reach with any of them an IoU that matters: each lane compares one box with the hull of all 32 anchors, and
// the few boxes that remain are passed round by shuffles. What is skipped changes no result; each kernel says why.
//   prepare_kernel   one warp per box: on a grid, its best IoU with the anchors nearest to its centre, one per shape.
//   best_iou_kernel  each box's best IoU, in one pass for the boxes of all images, since these share the anchors.
//   match_kernel     each anchor's best box, the first on ties, for kImagesOfBlock images per block. The IoUs are
//                    computed again, with the same bits.
// Moves the boxes (through the cache) and 4 or 8 bytes per anchor and image; no storage grows with anchors times boxes.
// A box without area is reported through host memory and matches nothing. Deterministic: atomics are maxima of the bits
// of numbers >= 0 and integer sums, which do not depend on the order of threads.
#include "kernels/match_anchors.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;
constexpr int kBoxesOfBlock = 128;     // of best_iou_kernel
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
  const Box<float> box = grid_anchor(anchors.base_anchors + 4 * (l * anchors.anchors_per_cell + int64_t(k)), level, y,
                                     cell - y * uint32_t(level.width));
  return {C(box.x1), C(box.y1), C(box.x2), C(box.y2)};
}

template <class C>
__device__ Box<C> shuffle(const Box<C>& box, int lane) {
  return {__shfl_sync(kAllLanes, box.x1, lane), __shfl_sync(kAllLanes, box.y1, lane),
          __shfl_sync(kAllLanes, box.x2, lane), __shfl_sync(kAllLanes, box.y2, lane)};
}

// The value of iou() where no corner is a NaN: CUDA's minimum and maximum are one instruction each, but drop a NaN.
template <class C>
__device__ C iou_of_numbers(const Box<C>& a, C area_a, const Box<C>& b, C area_b) {
  const C width = fmax(C(0), fmin(a.x2, b.x2) - fmax(a.x1, b.x1));
  const C height = fmax(C(0), fmin(a.y2, b.y2) - fmax(a.y1, b.y1));
  const C inter = mul_exact(width, height);
  return inter / (area_a + area_b - inter);
}

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

  // False only where the IoU of `gt` with every anchor of the warp is 0 or less than `bound`. An IoU I / U is at most
  // I / G and I / A, the areas of `gt` and the anchor, and I at most G, A and the intersection of `gt` with the hull.
  __device__ bool may_reach(const Box<C>& gt, C bound) const {
    const C width = fmin(gt.x2, hull.x2) - fmax(gt.x1, hull.x1);
    const C height = fmin(gt.y2, hull.y2) - fmax(gt.y1, hull.y1);
    const C inter = width * height;
    const C gt_area = math::area(gt);
    const C low = bound * C(1 - 1e-5);  // lower than the bound by more than the roundings of both sides
    return width > C(0) && height > C(0) && fmin(inter, largest) >= low * gt_area &&
           fmin(inter, gt_area) >= low * smallest;
  }

  __device__ C iou_with(const Box<C>& gt) const { return iou_of_numbers(gt, math::area(gt), box, area); }
};

// Box g if g < end, else one without area.
template <class C>
__device__ Box<C> box_at(const MatchAnchorsParams& p, int32_t g, int32_t end) {
  return g < end ? load_box(static_cast<const C*>(p.gt_boxes) + 4 * int64_t(g)) : Box<C>{};
}

// A lower bound of each box's best IoU, known before best_iou_kernel: the second half of the workspace.
template <class C>
__device__ C* known_iou(const MatchAnchorsParams& p) {
  return static_cast<C*>(p.best_iou) + p.num_boxes;
}

// The cell of a row or column whose anchor is nearest to `centre`. (Any other cell would be correct too, if slower.)
__device__ int64_t nearest_cell(double centre, double centre_of_first, int32_t stride, int32_t cells) {
  return int64_t(fmin(cells - 1.0, fmax(0.0, rint((centre - centre_of_first) / stride))));
}

// best_iou[g] becomes an IoU that some anchor has with box g, or 0; infinity for a box without area, which is skipped.
template <class C>
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(MatchAnchorsParams p, int32_t first_box, int32_t boxes, int64_t first_image, int32_t images) {
  const int32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i < images && p.num_foreground) p.num_foreground[first_image + i] = 0;
  if (i / 32 >= boxes) return;
  const int32_t g = first_box + i / 32;
  const Box<C> gt = load_box(static_cast<const C*>(p.gt_boxes) + 4 * int64_t(g));
  C best = has_area(gt) ? C(0) : std::numeric_limits<C>::infinity();
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
__global__ void __launch_bounds__(kThreads) best_iou_kernel(MatchAnchorsParams p, int32_t first_box, int32_t end_box) {
  __shared__ C known[kBoxesOfBlock];
  __shared__ C best[kBoxesOfBlock];
  const WarpAnchors<C> anchors(p.anchors, int64_t(blockIdx.x) * kThreads + threadIdx.x);
  const int32_t first = first_box + int32_t(blockIdx.y) * kBoxesOfBlock;
  const int32_t end = min2(first + kBoxesOfBlock, end_box);
  C* best_iou = static_cast<C*>(p.best_iou);
  for (int i = threadIdx.x; i < end - first; i += kThreads) known[i] = best[i] = known_iou<C>(p)[first + i];
  __syncthreads();
  for (int32_t begin = first; begin < end; begin += 32) {
    const int32_t g = begin + int32_t(threadIdx.x) % 32;
    const Box<C> mine = box_at<C>(p, g, end);
    unsigned near = __ballot_sync(kAllLanes, has_area(mine) && anchors.may_reach(mine, known[g - first]));
    for (; near != 0; near &= near - 1) {
      const int lane = __ffs(int(near)) - 1;
      const C value = anchors.iou_with(shuffle(mine, lane));
      const C warps_best = warp_max_of_bits(value > C(0) ? value : C(0));
      if (threadIdx.x % 32 == 0) atomic_max(&best[begin - first + lane], warps_best);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < end - first; i += kThreads) {
    if (best[i] > known[i]) atomic_max(best_iou + first + i, best[i]);
  }
}

// An image's boxes [first, end), and what holds for all anchors.
template <class C>
struct ImageBoxes {
  int32_t first, end;
  bool any = false;      // there is a box with area
  bool nowhere = false;  // some box's best IoU is 0, so that every anchor has it
  C bound;               // an anchor that reaches this IoU with no box is background, unless `nowhere`

  __device__ ImageBoxes(const MatchAnchorsParams& p, int32_t first_box, int32_t end_box)
      : first(first_box), end(end_box), bound(C(p.rule.low_threshold)) {
    C least = std::numeric_limits<C>::infinity();
    for (int32_t g = first + int32_t(threadIdx.x) % 32; g < end; g += 32) {
      least = min2(static_cast<const C*>(p.best_iou)[g], least);
    }
    least = warp_min(least);
    any = least < std::numeric_limits<C>::infinity();
    if (!p.rule.allow_low_quality_matches) return;
    nowhere = p.rule.match_zero_iou && least == C(0);
    bound = nowhere ? C(0) : min2(bound, least);
  }
};

template <class C>
__global__ void __launch_bounds__(kThreads) match_kernel(MatchAnchorsParams p, ImageBatch batch) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = index < p.anchors.num_anchors;
  const WarpAnchors<C> anchors(p.anchors, index);
  const int end_image = min2(int(blockIdx.y + 1) * kImagesOfBlock, int(batch.count));
  for (int i = blockIdx.y * kImagesOfBlock; i < end_image; ++i) {
    const int64_t image = batch.first + i;
    const ImageBoxes<C> boxes(p, batch.offsets[i], batch.offsets[i + 1]);
    C best = 0;
    int32_t row = 0;
    bool restored = boxes.nowhere;
    for (int32_t begin = boxes.first; begin < boxes.end; begin += 32) {
      const int32_t g = begin + int32_t(threadIdx.x) % 32;
      const Box<C> mine = box_at<C>(p, g, boxes.end);
      if (blockIdx.x == 0 && threadIdx.x < 32 && g < boxes.end && !has_area(mine) && p.bad_box) {
        *p.bad_box = bad_box_code(image, g - boxes.first);
      }
      unsigned near = __ballot_sync(kAllLanes, has_area(mine) && anchors.may_reach(mine, boxes.bound));
      if (near == 0) continue;
      const C mine_best =
          p.rule.allow_low_quality_matches && g < boxes.end ? static_cast<const C*>(p.best_iou)[g] : C(0);
      for (; near != 0; near &= near - 1) {
        const int lane = __ffs(int(near)) - 1;
        const C value = anchors.iou_with(shuffle(mine, lane));
        const C best_of_box = __shfl_sync(kAllLanes, mine_best, lane);
        if (value > best) {
          best = value;
          row = begin - boxes.first + lane;
        }
        restored |= value == best_of_box && value > C(0);
      }
    }
    int32_t match = kMatchBackground;
    if (boxes.any) match = match_of(best, row, restored, C(p.rule.high_threshold), C(p.rule.low_threshold));
    const unsigned foreground = __ballot_sync(kAllLanes, inside && match >= 0);
    if (threadIdx.x % 32 == 0 && foreground && p.num_foreground) {
      atomicAdd(p.num_foreground + image, __popc(foreground));
    }
    if (!inside) continue;
    const int64_t to = image * p.anchors.num_anchors + index;
    if (p.wide_matches) {
      static_cast<int64_t*>(p.matches)[to] = match;
    } else {
      static_cast<int32_t*>(p.matches)[to] = match >= 0 ? boxes.first + match : match;
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

}  // namespace

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
