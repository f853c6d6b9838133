// A thread per anchor and image, with the anchor in registers; the image's boxes pass through shared memory in chunks.
//   best_iou_kernel: each box's best IoU. A warp's best is found by shuffles and the block's by integer maxima of the
//     bits, which order numbers that are not negative and do not depend on the order of threads.
//   match_kernel: each anchor's best box, first on ties; the IoUs are computed again with the same bits.
// Moves the boxes (through the cache) and 4 or 8 bytes an anchor and image out; no storage that grows with
// anchors times boxes. A box without area is reported through host memory and takes no part.
#include "kernels/match_anchors.h"

#include "kernels/cuda/launch.cuh"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;
constexpr int kChunk = 256;            // boxes in shared memory at a time
constexpr int kImagesPerLaunch = 256;  // so many offsets travel as kernel arguments

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

template <class C>
__device__ C warp_max(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x = max2(__shfl_xor_sync(0xffffffffu, x, offset), x);
  return x;
}

template <class C>
struct BoxChunk {
  Box<C> box[kChunk];
  C area[kChunk];
  C best[kChunk];

  // All threads: boxes [begin, begin + count), and `best` from best_iou, or 0 for a null one.
  __device__ void load(const MatchAnchorsParams& p, int32_t begin, int32_t count, bool with_best) {
    __syncthreads();  // the chunk before has been read
    for (int i = threadIdx.x; i < count; i += kThreads) {
      box[i] = load_box(static_cast<const C*>(p.gt_boxes) + 4 * int64_t(begin + i));
      area[i] = math::area(box[i]);
      best[i] = with_best ? static_cast<const C*>(p.best_iou)[begin + i] : C(0);
    }
    __syncthreads();
  }
};

template <class C>
__global__ void prepare_kernel(MatchAnchorsParams p, ImageBatch batch) {
  const int image = blockIdx.y;
  if (blockIdx.x == 0 && threadIdx.x == 0 && p.num_foreground) p.num_foreground[batch.first + image] = 0;
  const int32_t row = blockIdx.x * kThreads + threadIdx.x;
  const int32_t g = batch.offsets[image] + row;
  if (g >= batch.offsets[image + 1]) return;
  static_cast<C*>(p.best_iou)[g] = 0;
  if (!has_area(load_box(static_cast<const C*>(p.gt_boxes) + 4 * int64_t(g))) && p.bad_box) {
    *p.bad_box = bad_box_code(batch.first + image, row);
  }
}

template <class C>
__global__ void best_iou_kernel(MatchAnchorsParams p, ImageBatch batch) {
  __shared__ BoxChunk<C> chunk;
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = index < p.anchors.num_anchors;
  const Box<C> anchor = inside ? anchor_at<C>(p.anchors, index) : Box<C>{};
  const C anchor_area = area(anchor);
  const int32_t end = batch.offsets[blockIdx.y + 1];
  for (int32_t begin = batch.offsets[blockIdx.y]; begin < end; begin += kChunk) {
    const int32_t count = end - begin < kChunk ? end - begin : kChunk;
    chunk.load(p, begin, count, false);
    for (int i = 0; i < count; ++i) {
      const C value = inside ? iou(chunk.box[i], chunk.area[i], anchor, anchor_area) : C(0);
      if (!__any_sync(0xffffffffu, value > C(0))) continue;
      const C best = warp_max(value > C(0) ? value : C(0));
      if (threadIdx.x % 32 == 0) atomic_max(&chunk.best[i], best);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if (chunk.best[i] > C(0)) atomic_max(static_cast<C*>(p.best_iou) + begin + i, chunk.best[i]);
    }
  }
}

template <class C>
__global__ void match_kernel(MatchAnchorsParams p, ImageBatch batch) {
  __shared__ BoxChunk<C> chunk;
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = index < p.anchors.num_anchors;
  const Box<C> anchor = inside ? anchor_at<C>(p.anchors, index) : Box<C>{};
  const C anchor_area = area(anchor);
  const int32_t first = batch.offsets[blockIdx.y];
  const int32_t end = batch.offsets[blockIdx.y + 1];
  const bool low_quality = p.rule.allow_low_quality;
  C best = 0;
  int32_t box = 0;
  bool restored = false;
  bool any = false;  // a box with area
  for (int32_t begin = first; begin < end; begin += kChunk) {
    const int32_t count = end - begin < kChunk ? end - begin : kChunk;
    chunk.load(p, begin, count, low_quality);
    for (int i = 0; i < count; ++i) {
      if (!has_area(chunk.box[i])) continue;
      any = true;
      const C value = iou(chunk.box[i], chunk.area[i], anchor, anchor_area);
      if (value > best) {
        best = value;
        box = begin + i - first;
      }
      // A box of best IoU 0 has it with every anchor.
      const bool counts = low_quality && (p.rule.match_zero_iou || chunk.best[i] > C(0));
      restored = restored || (counts && (value == chunk.best[i] || chunk.best[i] == C(0)));
    }
  }
  int32_t match = kMatchBackground;
  if (any) match = match_of(best, box, restored, C(p.rule.high_threshold), C(p.rule.low_threshold));
  const unsigned foreground = __ballot_sync(0xffffffffu, inside && match >= 0);
  const int64_t image = batch.first + blockIdx.y;
  if (threadIdx.x % 32 == 0 && foreground && p.num_foreground) {
    atomicAdd(p.num_foreground + image, __popc(foreground));
  }
  if (!inside) return;
  const int64_t to = image * p.anchors.num_anchors + index;
  if (p.wide_matches) {
    static_cast<int64_t*>(p.matches)[to] = match;
  } else {
    static_cast<int32_t*>(p.matches)[to] = match >= 0 ? first + match : match;
  }
}

template <class C>
Status match_batch(const MatchAnchorsParams& p, const ImageBatch& batch, int64_t most_boxes, CudaStream stream) {
  const dim3 block(kThreads);
  const dim3 box_grid(unsigned(ceil_div(most_boxes > 0 ? most_boxes : 1, kThreads)), batch.count);
  const dim3 anchor_grid(unsigned(ceil_div(p.anchors.num_anchors, kThreads)), batch.count);
  Status status = launch(prepare_kernel<C>, box_grid, block, 0, stream, p, batch);
  if (status.ok() && p.rule.allow_low_quality && most_boxes > 0) {
    status = launch(best_iou_kernel<C>, anchor_grid, block, 0, stream, p, batch);
  }
  if (status.ok()) status = launch(match_kernel<C>, anchor_grid, block, 0, stream, p, batch);
  return status;
}

}  // namespace

Status match_anchors_cuda(const MatchAnchorsParams& p, CudaStream stream) {
  for (int64_t first = 0; first < p.batch_size; first += kImagesPerLaunch) {
    ImageBatch batch{};
    batch.first = first;
    batch.count = int32_t(min2(int64_t(kImagesPerLaunch), p.batch_size - first));
    int64_t most_boxes = 0;
    for (int i = 0; i <= batch.count; ++i) {
      batch.offsets[i] = int32_t(p.gt_offsets[first + i]);
      if (i > 0) most_boxes = max2(most_boxes, int64_t(batch.offsets[i] - batch.offsets[i - 1]));
    }
    const Status status = p.dtype == DType::kFloat64 ? match_batch<double>(p, batch, most_boxes, stream)
                                                     : match_batch<float>(p, batch, most_boxes, stream);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace retinanet_fast
