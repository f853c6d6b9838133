// From each row's best candidates to an image's detections.
#pragma once

#include "kernels/cuda/retinanet_detect_select.cuh"
#include "kernels/cuda/suppress.cuh"

namespace retinanet_fast {
inline namespace retinanet_detect_cu {

// ---- one thread per candidate: its rank among all levels, and its box ----------------------------------------------

constexpr int kMergeThreads = 256;
constexpr int64_t kSizesAtOnce = 64;  // images whose sizes are arguments of one launch

struct HostSizes {
  int64_t values[2 * kSizesAtOnce];
};

// blockIdx.y is a row, counted from the first one of `first_image`.
template <class D>
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(Detect d, HostSizes sizes, int64_t first_image) {
  const uint32_t image_here = blockIdx.y / uint32_t(d.p.head.num_levels);
  const int level = int(blockIdx.y - image_here * uint32_t(d.p.head.num_levels));
  const int64_t image = first_image + image_here;
  const int64_t first_row = image * d.p.head.num_levels;
  const uint32_t i = blockIdx.x * kMergeThreads + threadIdx.x;
  uint32_t counts[kMaxLevels];
  uint32_t total = 0;
#pragma unroll
  for (int l = 0; l < kMaxLevels; ++l) {
    counts[l] = l < d.p.head.num_levels ? d.space.counts[first_row + l] : 0;
    total += counts[l];
  }
  if (i == 0 && level == 0) d.space.totals[image] = int32_t(total);
  if (i >= d.space.counts[first_row + level]) return;

  // The number of better candidates of each level, by binary searches that run side by side.
  const uint64_t* keys = d.space.keys + first_row * d.space.keys_per_row;
  const uint64_t key = keys[level * d.space.keys_per_row + i];
  uint32_t better[kMaxLevels] = {};
  for (uint32_t step = uint32_t(d.space.keys_per_row) / 2; step > 0; step /= 2) {
#pragma unroll
    for (int l = 0; l < kMaxLevels; ++l) {
      const uint32_t reached = better[l] + step;
      if (reached <= counts[l] && keys[l * d.space.keys_per_row + reached - 1] < key) better[l] = reached;
    }
  }
  int64_t to = image * d.space.topk;
#pragma unroll
  for (int l = 0; l < kMaxLevels; ++l) to += better[l];

  const int64_t* on_device = d.p.image_sizes + 2 * image;
  const int64_t height = d.p.image_sizes_on_host ? sizes.values[2 * image_here] : on_device[0];
  const int64_t width = d.p.image_sizes_on_host ? sizes.values[2 * image_here + 1] : on_device[1];
  const Candidate c = locate(d.p, candidate_index(key));
  d.space.merged[to] = key;
  d.space.boxes[to] = decode_candidate(d.p, c, load_candidate_deltas<D>(d.p, image, c), double(height), double(width));
}

// ---- output --------------------------------------------------------------------------------------------------------

__device__ uint32_t label_of(const Detect& d, uint64_t key) {
  return candidate_index(key) % uint32_t(d.p.head.num_classes);
}

__device__ void write(const Detect& d, int64_t image, int64_t i, const Box<float>& box, float score, int64_t label) {
  const int64_t to = image * d.p.detections_per_img + i;
  store_box(d.p.boxes + 4 * to, box);
  d.p.scores[to] = score;
  d.p.labels[to] = label;
}

__device__ void pad(const Detect& d, int64_t image, int64_t count) {
  for (int64_t i = count + threadIdx.x; i < d.p.detections_per_img; i += blockDim.x) write(d, image, i, {}, 0.0f, -1);
  if (threadIdx.x == 0) d.p.counts[image] = count;
}

// ---- one block per image: suppression class by class ---------------------------------------------------------------

constexpr int kSuppressThreads = 1024;
constexpr int kGroup = int(kMaskBits);
constexpr int kSlices = kSuppressThreads / kGroup;
constexpr int64_t kKeptInShared = 1024;  // kept boxes in shared memory; those beyond are read back from the output

struct LabelledBox {
  Box<float> box;
  float area;
  uint32_t label;
  uint64_t key;

  __device__ bool suppresses(const IouThreshold<float>& threshold, const LabelledBox& other) const {
    return label == other.label && overlaps(threshold, box, area, other.box, other.area);
  }
};

// Which of up to 64 candidates, in order, are kept, by a whole warp: `first` and `second` are the earlier candidates
// that would suppress the candidates `lane` and `lane + 32`. Each round settles at least the first open one.
__device__ inline MaskWord resolve_by_votes(MaskWord candidates, MaskWord first, MaskWord second) {
  const int lane = int(threadIdx.x % 32);
  const auto vote = [](bool low, bool high) {
    const MaskWord low_votes = __ballot_sync(0xffffffffu, low);
    return low_votes | MaskWord(__ballot_sync(0xffffffffu, high)) << 32;
  };
  MaskWord kept = 0;
  for (MaskWord open = candidates; open != 0;) {
    const MaskWord in_the_way = open | kept;
    kept |=
        vote((open >> lane & 1) && (first & in_the_way) == 0, (open >> (lane + 32) & 1) && (second & in_the_way) == 0);
    open &= ~(kept | vote((first & kept) != 0, (second & kept) != 0));
  }
  return kept;
}

// Takes 64 candidates at a time, a group. kSlices threads compare each with the kept boxes and the group's earlier
// ones.
__global__ void __launch_bounds__(kSuppressThreads) suppress_kernel(Detect d, IouThreshold<float> threshold) {
  __shared__ LabelledBox group[kGroup];
  __shared__ SharedBits suppressors[kGroup];  // of each candidate, among the earlier ones of the group
  __shared__ SharedBits removed;
  LabelledBox* kept_boxes = dynamic_shared<LabelledBox>();
  const int64_t image = blockIdx.x;
  const int64_t total = d.space.totals[image];
  const uint64_t* keys = d.space.merged + image * d.space.topk;
  const Box<float>* boxes = d.space.boxes + image * d.space.topk;
  const int lane = int(threadIdx.x) % kGroup;   // candidate of the group
  const int slice = int(threadIdx.x) / kGroup;  // of the boxes that it is compared with, one in kSlices
  const auto load = [&](int64_t i) {
    return i < total ? LabelledBox{boxes[i], area(boxes[i]), label_of(d, keys[i]), keys[i]} : LabelledBox{};
  };
  LabelledBox next{};
  if (slice == 0) next = load(lane);
  int64_t kept = 0;
  for (int64_t first = 0; first < total && kept < d.p.detections_per_img; first += kGroup) {
    const int size = int(min2(int64_t(kGroup), total - first));
    if (slice == 0) {
      group[lane] = next;
      suppressors[lane].set(0);
      if (lane == 0) removed.set(size == kGroup ? 0 : ~MaskWord(0) << size);
      next = load(first + kGroup + lane);
    }
    __syncthreads();
    const LabelledBox mine = group[lane];
    bool gone = false;
    const int64_t in_shared = min2(kept, kKeptInShared);
    for (int64_t j = slice; j < in_shared && !gone; j += kSlices) gone = kept_boxes[j].suppresses(threshold, mine);
    for (int64_t j = kKeptInShared + slice; j < kept && !gone; j += kSlices) {
      const int64_t at = image * d.p.detections_per_img + j;
      const Box<float> box = load_box(d.p.boxes + 4 * at);
      gone = LabelledBox{box, area(box), uint32_t(d.p.labels[at]), 0}.suppresses(threshold, mine);
    }
    const MaskWord votes = __ballot_sync(0xffffffffu, gone);
    if (lane % 32 == 0) removed.add(votes << lane);
    MaskWord mask = 0;
    for (int j = slice; j < lane; j += kSlices) mask |= MaskWord(group[j].suppresses(threshold, mine)) << j;
    suppressors[lane].add(mask);
    __syncthreads();
    const MaskWord bits =
        resolve_by_votes(~removed.get(), suppressors[lane % 32].get(), suppressors[lane % 32 + 32].get());
    const int64_t place = kept + bits_below(bits, lane);
    if (slice == 0 && (bits >> lane & 1) && place < d.p.detections_per_img) {
      write(d, image, place, mine.box, candidate_score(mine.key), mine.label);
      if (place < kKeptInShared) kept_boxes[place] = mine;
    }
    kept = min2(kept + __popcll(bits), d.p.detections_per_img);
    __syncthreads();
  }
  pad(d, image, kept);
}

// ---- one block per image: soft suppression -------------------------------------------------------------------------

constexpr int kSoftThreads = 256;

// Each detection lowers the scores of its class by overlap. The next is the best of those left, of equals the first.
// One block per multiprocessor will do, there being one per image: without that ptxas spills for sm_120.
__global__ void __launch_bounds__(kSoftThreads, 1) soft_suppress_kernel(Detect d, float threshold) {
  constexpr float kGone = -std::numeric_limits<float>::infinity();
  __shared__ uint64_t best_of[kSoftThreads];
  const int64_t image = blockIdx.x;
  const int64_t total = d.space.totals[image];
  const uint64_t* keys = d.space.merged + image * d.space.topk;
  const Box<float>* boxes = d.space.boxes + image * d.space.topk;
  float* scores = d.space.scores + image * d.space.topk;
  for (int64_t i = threadIdx.x; i < total; i += blockDim.x) scores[i] = candidate_score(keys[i]);
  int64_t kept = 0;
  for (; kept < d.p.detections_per_img; ++kept) {
    uint64_t best = kNoKey;  // score and rank; the bits of scores >= 0 are ordered like the scores
    for (int64_t i = threadIdx.x; i < total; i += blockDim.x) {
      if (scores[i] != kGone) best = min2(uint64_t(~bit_cast<uint32_t>(scores[i])) << 32 | uint64_t(i), best);
    }
    best_of[threadIdx.x] = best;
    __syncthreads();
    for (int half = kSoftThreads / 2; half > 0; half /= 2) {
      if (int(threadIdx.x) < half) best_of[threadIdx.x] = min2(best_of[threadIdx.x], best_of[threadIdx.x + half]);
      __syncthreads();
    }
    best = best_of[0];
    __syncthreads();
    if (best == kNoKey) break;
    const int64_t rank = uint32_t(best);
    const Box<float> box = boxes[rank];
    const uint32_t label = label_of(d, keys[rank]);
    const float lowest = d.p.class_thresh == nullptr ? d.p.score_thresh : d.p.class_thresh[label];
    if (threadIdx.x == 0) write(d, image, kept, box, candidate_score(best), label);
    for (int64_t i = threadIdx.x; i < total; i += blockDim.x) {
      if (i == rank) scores[i] = kGone;
      if (scores[i] == kGone || label_of(d, keys[i]) != label) continue;
      const float overlap = iou(box, area(box), boxes[i], area(boxes[i]));
      const float lowered = scores[i] * soft_nms_factor(d.p, threshold, overlap);
      scores[i] = lowered > lowest ? lowered : kGone;
    }
    // No barrier: each thread reads and writes only its own scores.
  }
  pad(d, image, kept);
}

}  // namespace retinanet_detect_cu
}  // namespace retinanet_fast
