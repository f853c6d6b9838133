// From logits to detections in a fixed number of launches, whatever the batch, without the host looking at anything.
//
// Select, for each row (an image's level), by a radix selection:
//   count_kernel    blocks of a row stride over its logits, 16 bytes a load where they lie densely, and count those of
//                   the group under selection by 11 bits of what they are ordered by, in shared memory first.
//   narrow_kernel   a block a row: takes the bin in which the topk-th candidate lies as the next group. It is resolved
//                   when everything down to and with that bin fits into the row's keys.
//   collect_kernel  strides over the logits again and writes the keys of all that pass the resolved bound.
//   sort_kernel     a block a row: bitonic sort of these keys (they are distinct, so there is one order).
// The first pass counts by equal steps of the logit, which resolves all but contrived inputs: two reads of the logits.
// Up to 3 more passes select the topk-th logit exactly, and 3 more, among equal scores, the index; resolved rows skip
// them. Counts are integers, so no order of atomics shows in the result.
// Then:
//   merge_kernel    a thread a candidate: its rank among all levels by binary searches; decodes it there.
//   suppress_kernel a block an image: 64 candidates at a time against the kept ones and among themselves, until enough
//                   are kept; soft_suppress_kernel: the best of all again and again, scores lowered in between.
#include "kernels/retinanet_detect.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/suppress.cuh"
#include "kernels/cuda/vector.cuh"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;
constexpr int kGroup = int(kMaskBits);
constexpr int kSlices = kThreads / kGroup;
constexpr uint64_t kNoKey = ~uint64_t(0);

struct Detect {
  RetinanetDetectParams p;
  DetectCudaWorkspace space;
};

// ---- a row's logits, in the order of memory -----------------------------------------------------------------------

class Row {
 public:
  __device__ Row(const RetinanetDetectParams& p, int64_t row)
      : image_(row / p.head.num_levels),
        level_(p.head.levels[row - image_ * p.head.num_levels]),
        channels_(p.head.channels()),
        cells_(level_.height * level_.width),
        first_index_(level_.first_anchor * p.head.num_classes) {
    const LevelStrides& at = level_.logits_strides;
    channels_last_ = has_channel_rows(p.head, row - image_ * p.head.num_levels, at);
    dense_ = channels_last_ ? at.x == channels_ && at.y == level_.width * channels_
                            : at.x == 1 && at.y == level_.width && at.channel == cells_;
  }

  __device__ int64_t size() const { return cells_ * channels_; }

  __device__ uint32_t index(int64_t place) const {
    if (channels_last_) return uint32_t(first_index_ + place);
    const int64_t channel = place / cells_;
    return uint32_t(first_index_ + (place - channel * cells_) * channels_ + channel);
  }

  // Calls visit(logit, place) for this block's share of the row.
  template <class T, class Visit>
  __device__ void for_each(const Visit& visit) const {
    const T* logits = static_cast<const T*>(level_.logits) + image_ * level_.logits_strides.image;
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (!dense_) {
      for (int64_t place = thread; place < size(); place += step) visit(float(load(logits[offset(place)])), place);
      return;
    }
    const bool aligned = is_aligned(logits);
    for (int64_t place = thread * kVector<T>; place < size(); place += step * kVector<T>) {
      ComputeType<T> values[kVector<T>];
      load_vector(logits, place, size(), aligned, values);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) {
        if (place + e < size()) visit(float(values[e]), place + e);
      }
    }
  }

 private:
  __device__ int64_t offset(int64_t place) const {
    const int64_t channel = channels_last_ ? place % channels_ : place / cells_;
    const int64_t cell = channels_last_ ? place / channels_ : place % cells_;
    const int64_t y = cell / level_.width;
    return channel * level_.logits_strides.channel + y * level_.logits_strides.y +
           (cell - y * level_.width) * level_.logits_strides.x;
  }

  int64_t image_;
  HeadLevel level_;
  int64_t channels_;
  int64_t cells_;
  int64_t first_index_;
  bool channels_last_;
  bool dense_;
};

// ---- thresholds and sizes -----------------------------------------------------------------------------------------

struct HostSizes {
  int64_t values[2 * kDetectSizesAtOnce];
};

__global__ void store_sizes_kernel(HostSizes sizes, int64_t* to, int count) {
  if (int(threadIdx.x) < count) to[threadIdx.x] = sizes.values[threadIdx.x];
}

__global__ void class_thresholds_kernel(Detect d) {
  __shared__ uint32_t lowest;
  if (threadIdx.x == 0) lowest = ~0u;
  __syncthreads();
  for (int64_t c = threadIdx.x; c < d.p.head.num_classes; c += blockDim.x) {
    const float logit = bound_by_threshold(d.p.class_thresh[c]).above;
    d.space.lowest[c] = logit;
    if (logit == logit) atomicMin(&lowest, ascending_key(logit));
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    d.space.lowest[d.p.head.num_classes] =
        lowest == ~0u ? std::numeric_limits<float>::quiet_NaN() : from_ascending_key(lowest);
  }
}

// A block a row.
__global__ void begin_kernel(Detect d) {
  const int64_t row = blockIdx.x;
  for (int bin = threadIdx.x; bin < kDetectBins; bin += blockDim.x) d.space.histograms[row * kDetectBins + bin] = 0;
  if (threadIdx.x != 0) return;
  DetectState state{};
  state.bound = bound_by_threshold(d.p.score_thresh);
  if (d.p.class_thresh != nullptr) state.bound.above = state.bound.equal = d.space.lowest[d.p.head.num_classes];
  d.space.states[row] = state;
  d.space.counts[row] = 0;
}

__device__ bool passes_class(const Detect& d, const Row& row, float logit, int64_t place) {
  return d.p.class_thresh == nullptr || logit >= d.space.lowest[row.index(place) % uint32_t(d.p.head.num_classes)];
}

// ---- select -------------------------------------------------------------------------------------------------------

// What a pass counts by. 0: equal steps of the logit. 1 to 3: the bits of the logits of one such step. 4 to 6: the bits
// of the indices of one score.
constexpr int kPasses = 7;

__device__ constexpr int shift_of(int pass) { return (pass - 1) % 3 == 0 ? 21 : (pass - 1) % 3 == 1 ? 10 : 0; }
__device__ constexpr int bits_of(int pass) { return (pass - 1) % 3 == 2 ? 10 : 11; }

__device__ bool leading_bits_agree(uint32_t key, uint32_t prefix, int pass) {
  const int decided = shift_of(pass) + bits_of(pass);
  return decided == 32 || (key >> decided) == (prefix >> decided);
}

// Rises with the logit; finer where most scores lie.
__device__ int bin_of(float logit) {
  constexpr float kLowest = -12.0f;
  constexpr float kHighest = 12.0f;
  constexpr float kScale = kDetectBins / (kHighest - kLowest);
  const float bin = (min2(kHighest, max2(kLowest, logit)) - kLowest) * kScale;
  return min(int(bin), kDetectBins - 1);
}

__device__ float lowest_logit_of_bin(int bin) {
  uint32_t below = ascending_key(-std::numeric_limits<float>::infinity());
  uint32_t reached = ascending_key(std::numeric_limits<float>::infinity());
  if (bin == 0) return from_ascending_key(below);
  while (reached - below > 1) {
    const uint32_t middle = below + (reached - below) / 2;
    (bin_of(from_ascending_key(middle)) >= bin ? reached : below) = middle;
  }
  return from_ascending_key(reached);
}

// The digit of a logit that belongs to the group of a pass; the best have the lowest. -1: it does not belong.
__device__ int digit_of(const DetectState& state, const Row& row, int pass, float logit, int64_t place) {
  if (pass == 0) return logit >= state.bound.equal ? kDetectBins - 1 - bin_of(logit) : -1;
  if (pass <= 3) {
    if (!(logit >= state.bound.equal) || bin_of(logit) != state.bin) return -1;
    const uint32_t key = ~ascending_key(logit);
    return leading_bits_agree(key, state.prefix, pass) ? int(key >> shift_of(pass) & ((1u << bits_of(pass)) - 1)) : -1;
  }
  if (!(logit >= state.bound.equal) || logit >= state.bound.above) return -1;
  const uint32_t index = row.index(place);
  return leading_bits_agree(index, state.prefix, pass) ? int(index >> shift_of(pass) & ((1u << bits_of(pass)) - 1))
                                                       : -1;
}

template <class T>
__global__ void count_kernel(Detect d, int pass) {
  const int64_t r = blockIdx.y;
  const DetectState state = d.space.states[r];
  if (state.resolved) return;
  __shared__ uint32_t counts[kDetectBins];
  __shared__ uint32_t better;
  for (int bin = threadIdx.x; bin < kDetectBins; bin += blockDim.x) counts[bin] = 0;
  if (threadIdx.x == 0) better = 0;
  __syncthreads();
  const Row row(d.p, r);
  row.for_each<T>([&](float logit, int64_t place) {
    const int digit = digit_of(state, row, pass, logit, place);
    const bool is_better = pass == 4 && logit >= state.bound.above;
    if ((digit < 0 && !is_better) || !passes_class(d, row, logit, place)) return;
    if (is_better) {
      atomicAdd(&better, 1u);
    } else {
      atomicAdd(&counts[digit], 1u);
    }
  });
  __syncthreads();
  for (int bin = threadIdx.x; bin < kDetectBins; bin += blockDim.x) {
    if (counts[bin] != 0) atomicAdd(&d.space.histograms[r * kDetectBins + bin], counts[bin]);
  }
  if (threadIdx.x == 0 && better != 0) atomicAdd(&d.space.counts[r], better);
}

// The digit of the `wanted`-th (from 1) of the counted, and how many have lower ones. `counts` sum up to at least that.
__device__ int find_digit(const uint32_t* counts, uint32_t wanted, uint32_t& lower) {
  int digit = 0;
  lower = 0;
  while (lower + counts[digit] < wanted) lower += counts[digit++];
  return digit;
}

__device__ uint32_t sum_to(const uint32_t* counts, int last) {
  uint32_t sum = 0;
  for (int digit = 0; digit <= last; ++digit) sum += counts[digit];
  return sum;
}

__device__ void narrow(const Detect& d, int64_t r, int pass, const uint32_t* counts) {
  DetectState state = d.space.states[r];
  const uint32_t topk = uint32_t(min2(d.p.topk, int64_t(0xffffffff)));
  const uint32_t room = uint32_t(d.space.keys_a_row);
  uint32_t lower = 0;
  if (pass == 0) {
    if (sum_to(counts, kDetectBins - 1) <= room) {
      state.resolved = 1;  // with the threshold as its bound
    } else {
      const int digit = find_digit(counts, topk, lower);
      state.bin = kDetectBins - 1 - digit;
      state.wanted = topk - lower;
      // Lower logits may have the same score as the lowest of the bin, and a lower index.
      const float lowest =
          max2(state.bound.equal, lowest_logit_at_least(sigmoid_score(lowest_logit_of_bin(state.bin))));
      if (sum_to(counts, kDetectBins - 1 - bin_of(lowest)) <= room) {
        state.bound = {lowest, lowest, 0};
        state.resolved = 1;
      }
    }
  } else {
    if (pass == 4) {
      state.wanted = topk - d.space.counts[r];
      d.space.counts[r] = 0;
    }
    const int digit = find_digit(counts, state.wanted, lower);
    state.prefix |= uint32_t(digit) << shift_of(pass);
    state.wanted -= lower;
    if (pass == 3) {  // the topk-th logit: now candidates are those better than its score, and of its score by index
      const float score = sigmoid_score(from_ascending_key(~state.prefix));
      state.bound = {lowest_logit_at_least(next_above(score)), lowest_logit_at_least(score), 0};
      state.prefix = 0;
    }
    if (pass >= 4) {
      // Everything with a lower digit, and with this one. No index is 2^32 - 1, so that one above does not overflow.
      const uint64_t end = uint64_t(state.prefix) + (uint64_t(1) << shift_of(pass));
      state.bound.index = uint32_t(min2(end, uint64_t(0xffffffff)));
      state.resolved = pass == kPasses - 1 || topk - state.wanted + counts[digit] <= room;
    }
  }
  d.space.states[r] = state;
}

__global__ void narrow_kernel(Detect d, int pass) {
  const int64_t r = blockIdx.x;
  if (d.space.states[r].resolved) return;
  __shared__ uint32_t counts[kDetectBins];
  uint32_t* histogram = d.space.histograms + r * kDetectBins;
  for (int bin = threadIdx.x; bin < kDetectBins; bin += blockDim.x) {
    counts[bin] = histogram[bin];
    histogram[bin] = 0;
  }
  __syncthreads();
  if (threadIdx.x == 0) narrow(d, r, pass, counts);
}

template <class T>
__global__ void collect_kernel(Detect d) {
  const int64_t r = blockIdx.y;
  const CandidateBound bound = d.space.states[r].bound;
  uint64_t* keys = d.space.keys + r * d.space.keys_a_row;
  const Row row(d.p, r);
  row.for_each<T>([&](float logit, int64_t place) {
    if (!(logit >= bound.equal)) return;
    const uint32_t index = row.index(place);
    if (!bound.admits(logit, index) || !passes_class(d, row, logit, place)) return;
    const uint32_t slot = atomicAdd(&d.space.counts[r], 1u);
    if (slot < d.space.keys_a_row) keys[slot] = candidate_key(logit, index);
  });
}

__global__ void sort_kernel(Detect d) {
  const int64_t r = blockIdx.x;
  uint64_t* keys = d.space.keys + r * d.space.keys_a_row;
  const int64_t count = d.space.counts[r];
  int64_t size = 1;
  while (size < count) size *= 2;
  for (int64_t i = count + threadIdx.x; i < size; i += blockDim.x) keys[i] = kNoKey;
  __syncthreads();
  for (int64_t run = 2; run <= size; run *= 2) {
    for (int64_t apart = run / 2; apart > 0; apart /= 2) {
      for (int64_t pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
        const int64_t low = pair / apart * 2 * apart + pair % apart;
        const uint64_t a = keys[low];
        const uint64_t b = keys[low + apart];
        if ((a > b) == ((low & run) == 0)) {
          keys[low] = b;
          keys[low + apart] = a;
        }
      }
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) d.space.counts[r] = uint32_t(min2(count, d.p.topk));
}

// ---- decode -------------------------------------------------------------------------------------------------------

__device__ int64_t count_below(const uint64_t* keys, int64_t count, uint64_t key) {
  int64_t low = 0;
  for (int64_t high = count; low < high;) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// blockIdx.y: a row; a thread each of its candidates.
template <class D>
__global__ void merge_kernel(Detect d) {
  const int64_t r = blockIdx.y;
  const int64_t image = r / d.p.head.num_levels;
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i == 0 && r % d.p.head.num_levels == 0) {
    int32_t total = 0;
    for (int64_t l = 0; l < d.p.head.num_levels; ++l) total += int32_t(d.space.counts[r + l]);
    d.space.totals[image] = total;
  }
  if (i >= d.space.counts[r]) return;
  const uint64_t key = d.space.keys[r * d.space.keys_a_row + i];
  int64_t rank = i;
  for (int64_t other = image * d.p.head.num_levels; other < (image + 1) * d.p.head.num_levels; ++other) {
    if (other == r) continue;
    rank += count_below(d.space.keys + other * d.space.keys_a_row, d.space.counts[other], key);
  }
  const int64_t to = image * d.space.topk + rank;
  const int64_t* size = d.p.image_sizes + 2 * image;
  const Candidate c = locate(d.p, candidate_index(key));
  d.space.merged[to] = key;
  d.space.boxes[to] =
      decode_candidate(d.p, c, load_candidate_deltas<D>(d.p, image, c), double(size[0]), double(size[1]));
}

// ---- suppress -----------------------------------------------------------------------------------------------------

__device__ int64_t label_of(const Detect& d, uint64_t key) {
  return candidate_index(key) % uint32_t(d.p.head.num_classes);
}

__device__ void write(const Detect& d, int64_t image, int64_t i, const Box<float>& box, float score, int64_t label) {
  const int64_t to = image * d.p.max_detections + i;
  store_box(d.p.boxes + 4 * to, box);
  d.p.scores[to] = score;
  d.p.labels[to] = label;
}

__device__ void pad(const Detect& d, int64_t image, int64_t count) {
  for (int64_t i = count + threadIdx.x; i < d.p.max_detections; i += blockDim.x) write(d, image, i, {}, 0.0f, -1);
  if (threadIdx.x == 0) d.p.counts[image] = count;
}

__global__ void suppress_kernel(Detect d, IouThreshold<float> threshold) {
  __shared__ Box<float> boxes[kGroup];
  __shared__ float areas[kGroup];
  __shared__ int64_t labels[kGroup];
  __shared__ MaskWord masks[kGroup];
  __shared__ MaskWord removed;
  __shared__ MaskWord kept_in_group;
  const int64_t image = blockIdx.x;
  const int64_t total = d.space.totals[image];
  const uint64_t* keys = d.space.merged + image * d.space.topk;
  const float* kept_boxes = d.p.boxes + 4 * image * d.p.max_detections;
  const int64_t* kept_labels = d.p.labels + image * d.p.max_detections;
  const int lane = threadIdx.x % kGroup;   // one of the group
  const int slice = threadIdx.x / kGroup;  // a share of what it is compared with
  int64_t kept = 0;
  for (int64_t first = 0; first < total && kept < d.p.max_detections; first += kGroup) {
    const int size = int(min2(int64_t(kGroup), total - first));
    if (slice == 0) {
      masks[lane] = 0;
      if (lane < size) {
        boxes[lane] = d.space.boxes[image * d.space.topk + first + lane];
        areas[lane] = area(boxes[lane]);
        labels[lane] = label_of(d, keys[first + lane]);
      }
      if (lane == 0) removed = size == kGroup ? 0 : ~MaskWord(0) << size;
    }
    __syncthreads();
    if (lane < size) {
      const Box<float> box = boxes[lane];
      const float box_area = areas[lane];
      const int64_t label = labels[lane];
      bool gone = false;
      for (int64_t j = slice; j < kept && !gone; j += kSlices) {
        if (kept_labels[j] != label) continue;
        const Box<float> other = load_box(kept_boxes + 4 * j);
        gone = overlaps(threshold, other, area(other), box, box_area);
      }
      if (gone) atomicOr(&removed, MaskWord(1) << lane);
      MaskWord mask = 0;
      for (int j = lane + 1 + slice; j < size; j += kSlices) {
        const bool hit = labels[j] == label && overlaps(threshold, box, box_area, boxes[j], areas[j]);
        mask |= MaskWord(hit) << j;
      }
      if (mask != 0) atomicOr(&masks[lane], mask);
    }
    __syncthreads();
    if (threadIdx.x == 0) kept_in_group = resolve(~removed, masks);
    __syncthreads();
    const MaskWord bits = kept_in_group;
    const int64_t place = kept + bits_below(bits, lane);
    if (slice == 0 && (bits >> lane & 1) && place < d.p.max_detections) {
      write(d, image, place, boxes[lane], candidate_score(keys[first + lane]), labels[lane]);
    }
    kept = min2(kept + __popcll(bits), d.p.max_detections);
    __syncthreads();
  }
  pad(d, image, kept);
}

// Each detection lowers the scores of its class by overlap; the best of what is left, the first among equals, is next.
__global__ void soft_suppress_kernel(Detect d, float threshold) {
  constexpr float kGone = -std::numeric_limits<float>::infinity();
  __shared__ uint64_t best_of[kThreads];
  const int64_t image = blockIdx.x;
  const int64_t total = d.space.totals[image];
  const uint64_t* keys = d.space.merged + image * d.space.topk;
  const Box<float>* boxes = d.space.boxes + image * d.space.topk;
  float* scores = d.space.scores + image * d.space.topk;
  for (int64_t i = threadIdx.x; i < total; i += blockDim.x) scores[i] = candidate_score(keys[i]);
  int64_t kept = 0;
  for (; kept < d.p.max_detections; ++kept) {
    uint64_t best = kNoKey;  // scores are not negative: their bits rise with them; then the rank
    for (int64_t i = threadIdx.x; i < total; i += blockDim.x) {
      if (scores[i] != kGone) best = min2(uint64_t(~bit_cast<uint32_t>(scores[i])) << 32 | uint64_t(i), best);
    }
    best_of[threadIdx.x] = best;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (int(threadIdx.x) < half) best_of[threadIdx.x] = min2(best_of[threadIdx.x], best_of[threadIdx.x + half]);
      __syncthreads();
    }
    best = best_of[0];
    __syncthreads();
    if (best == kNoKey) break;
    const int64_t rank = uint32_t(best);
    const Box<float> box = boxes[rank];
    const int64_t label = label_of(d, keys[rank]);
    const float lowest = d.p.class_thresh == nullptr ? d.p.score_thresh : d.p.class_thresh[label];
    if (threadIdx.x == 0) write(d, image, kept, box, candidate_score(best), label);
    for (int64_t i = threadIdx.x; i < total; i += blockDim.x) {
      if (i == rank) scores[i] = kGone;
      if (scores[i] == kGone || label_of(d, keys[i]) != label) continue;
      const float overlap = iou(box, area(box), boxes[i], area(boxes[i]));
      const float lowered = scores[i] * soft_nms_factor(d.p, threshold, overlap);
      scores[i] = lowered > lowest ? lowered : kGone;
    }
    // Each thread reads and writes scores of its own only.
  }
  pad(d, image, kept);
}

// ---- launches -----------------------------------------------------------------------------------------------------

Status store_sizes(Detect& d, CudaStream stream) {
  if (!d.p.image_sizes_on_host) return {};
  Status status;
  for (int64_t image = 0; image < d.p.head.batch_size && status.ok(); image += kDetectSizesAtOnce) {
    const int64_t count = 2 * min2(kDetectSizesAtOnce, d.p.head.batch_size - image);
    HostSizes sizes{};
    for (int64_t i = 0; i < count; ++i) sizes.values[i] = d.p.image_sizes[2 * image + i];
    status = launch(store_sizes_kernel, dim3(1), dim3(2 * kDetectSizesAtOnce), 0, stream, sizes,
                    d.space.image_sizes + 2 * image, int(count));
  }
  d.p.image_sizes = d.space.image_sizes;
  return status;
}

template <class T>
Status select(const Detect& d, CudaStream stream) {
  constexpr int64_t kLogitsAThread = 64;
  constexpr int64_t kMostBlocks = 4096;
  int64_t largest = 0;
  for (int64_t l = 0; l < d.p.head.num_levels; ++l) largest = max2(largest, level_candidates(d.p, l));
  const int64_t rows = d.p.head.batch_size * d.p.head.num_levels;
  const dim3 scan(unsigned(min2(kMostBlocks, ceil_div(largest, kThreads * kLogitsAThread))), unsigned(rows));
  Status status;
  for (int pass = 0; pass < kPasses && status.ok(); ++pass) {
    status = launch(count_kernel<T>, scan, dim3(kThreads), 0, stream, d, pass);
    if (status.ok()) status = launch(narrow_kernel, dim3(unsigned(rows)), dim3(kThreads), 0, stream, d, pass);
  }
  if (status.ok()) status = launch(collect_kernel<T>, scan, dim3(kThreads), 0, stream, d);
  if (status.ok()) status = launch(sort_kernel, dim3(unsigned(rows)), dim3(kThreads), 0, stream, d);
  return status;
}

template <class D>
Status merge(const Detect& d, CudaStream stream) {
  int64_t most = 1;
  for (int64_t l = 0; l < d.p.head.num_levels; ++l) most = max2(most, level_topk(d.p, l));
  const dim3 grid(unsigned(ceil_div(most, kThreads)), unsigned(d.p.head.batch_size * d.p.head.num_levels));
  return launch(merge_kernel<D>, grid, dim3(kThreads), 0, stream, d);
}

}  // namespace

Status retinanet_detect_cuda(const RetinanetDetectParams& p, CudaStream stream) {
  Detect d{p, DetectCudaWorkspace(p.workspace, p)};
  const dim3 rows(unsigned(p.head.batch_size * p.head.num_levels));
  Status status = store_sizes(d, stream);
  if (status.ok() && p.class_thresh != nullptr) {
    status = launch(class_thresholds_kernel, dim3(1), dim3(kThreads), 0, stream, d);
  }
  if (status.ok()) status = launch(begin_kernel, rows, dim3(kThreads), 0, stream, d);
  if (status.ok()) {
    status = dispatch_dtype(p.head.logits_dtype, [&](auto zero) { return select<decltype(zero)>(d, stream); });
  }
  if (status.ok()) {
    status = dispatch_dtype(p.head.deltas_dtype, [&](auto zero) { return merge<decltype(zero)>(d, stream); });
  }
  if (!status.ok()) return status;
  const dim3 images(unsigned(p.head.batch_size));
  if (p.soft_nms == SoftNms::kNone) {
    return launch(suppress_kernel, images, dim3(kThreads), 0, stream, d, IouThreshold<float>(p.nms_thresh));
  }
  return launch(soft_suppress_kernel, images, dim3(kThreads), 0, stream, d, floor_to<float>(p.nms_thresh));
}

}  // namespace retinanet_fast
