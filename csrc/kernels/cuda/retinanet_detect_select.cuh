// The best candidates of each row, sorted.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/retinanet_detect_bound.cuh"
#include "kernels/cuda/retinanet_detect_rows.cuh"

namespace retinanet_fast {
inline namespace retinanet_detect_cu {

using namespace math;

constexpr uint64_t kNoKey = ~uint64_t(0);

// One block: the lowest logit that passes each class's threshold, and the lowest of these.
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

__device__ CandidateBound threshold_of(const Detect& d) {
  if (d.p.class_thresh == nullptr) return d.threshold;
  const float lowest = d.space.lowest[d.p.head.num_classes];
  return {lowest, lowest, 0};
}

// ---- what a block selects from -------------------------------------------------------------------------------------

// A row, or an even sample of its vectors: one at a pseudo-random place in each of `sample` equal parts of the row.
template <class T>
struct RowSource {
  const DetectRow<T>& row;
  float lowest;
  uint32_t sample;  // 0: all

  __device__ int64_t vector(uint32_t i) const {
    if (sample == 0) return i;
    uint32_t hash = i * 0x9e3779b1u;
    hash = (hash ^ hash >> 15) * 0x85ebca6bu;
    hash ^= hash >> 13;
    const uint64_t all = uint64_t(row.vectors());
    return int64_t((i * all + (hash * all >> 32)) >> (31 - __clz(int(sample))));
  }

  template <class Visit>
  __device__ void for_each(const Visit& visit) const {
    const int64_t count = sample == 0 ? row.vectors() : sample;
    uint4 next = threadIdx.x < count ? row.read(vector(threadIdx.x)) : uint4{};
    for (int64_t begin = 0; begin < count; begin += kBoundThreads) {
      const int64_t i = begin + threadIdx.x;
      const uint4 bits = next;
      if (i + kBoundThreads < count) next = row.read(vector(uint32_t(i + kBoundThreads)));
      const int64_t first = row.place(vector(uint32_t(i)));
      // Half a vector at a time, to halve the code: this runs once, and fetching it costs more than running it.
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        struct {
          T values[kVector<T> / 2];
        } part;
        part = bit_cast<decltype(part)>(half == 0 ? make_uint2(bits.x, bits.y) : make_uint2(bits.z, bits.w));
#pragma unroll
        for (int e = 0; e < kVector<T> / 2; ++e) {
          const int64_t place = first + half * (kVector<T> / 2) + e;
          const float logit = float(load(part.values[e]));
          bool candidate = i < count && logit >= lowest && row.holds(place);
          const uint32_t index = candidate ? row.index(place) : 0;
          candidate = candidate && row.passes_class(logit, index);
          visit(candidate, logit, index);
        }
      }
    }
  }
};

// The candidates that collect_kernel has found in a row.
struct CollectedSource {
  const uint64_t* collected;
  uint32_t count;

  template <class Visit>
  __device__ void for_each(const Visit& visit) const {
    for (uint32_t begin = 0; begin < count; begin += kBoundThreads) {
      const uint32_t i = begin + threadIdx.x;
      const uint64_t candidate = i < count ? collected[i] : 0;
      visit(i < count, bit_cast<float>(uint32_t(candidate >> 32)), uint32_t(candidate));
    }
  }
};

// ---- one block per row: a bound for its scan -----------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kBoundThreads) guess_kernel(Detect d) {
  __shared__ BoundSearch search;
  const uint32_t image = blockIdx.x / uint32_t(d.p.head.num_levels);
  const int level = int(blockIdx.x - image * uint32_t(d.p.head.num_levels));
  const DetectLevelPlan plan = d.levels[level];
  DetectBound guess{threshold_of(d), false};
  if (plan.most != 0) {
    const DetectRow<T> row(d, image, level);
    const RowSource<T> source{row, guess.bound.equal, plan.sample};
    bool is_threshold = true;
    guess.bound = select_bound(source, guess.bound, search, plan.rank, plan.most, is_threshold);
    guess.is_guess = !is_threshold;
  }
  if (threadIdx.x == 0) {
    d.space.bounds[blockIdx.x] = guess;
    d.space.found[blockIdx.x] = 0;
  }
}

// ---- one block per tile: what passes -------------------------------------------------------------------------------

constexpr int kCollectThreads = 256;
constexpr int kCollectVectors = 4;  // that a thread loads at once; their hits are one mask
constexpr int kCollectRounds = 2;
constexpr int kTileVectors = kCollectThreads * kCollectVectors * kCollectRounds;

// Appends a warp's hits, where bit u * kVector + e of a thread's mask is element e of its vector u, with one atomic
// operation for all of them. Beyond the room that a row has they are counted only.
template <class T>
__device__ void append_hits(const Detect& d, const DetectRow<T>& row, int64_t r, const CandidateBound& bound,
                            int64_t vector, uint32_t hits) {
  const auto place_of = [&](uint32_t bits) {
    const int bit = __ffs(int(bits)) - 1;
    return row.place(vector + bit / kVector<T> * kCollectThreads) + bit % kVector<T>;
  };
  for (uint32_t bits = hits; bits != 0; bits &= bits - 1) {
    const int64_t place = place_of(bits);
    bool is_candidate = row.holds(place);
    if (is_candidate) {
      const float logit = row.logit(place);
      const uint32_t index = row.index(place);
      is_candidate = bound.admits(logit, index) && row.passes_class(logit, index);
    }
    if (!is_candidate) hits &= ~(bits & -bits);
  }
  const uint32_t count = uint32_t(__popc(hits));
  const uint32_t through = warp_prefix(count);
  uint32_t slot = 0;
  if (threadIdx.x % 32 == 31 && through != 0) slot = atomicAdd(&d.space.found[r], through);
  slot = __shfl_sync(0xffffffffu, slot, 31) + through - count;
  for (uint32_t bits = hits; bits != 0; bits &= bits - 1, ++slot) {
    if (slot >= d.space.room) break;
    const int64_t place = place_of(bits);
    d.space.collected[r * d.space.room + slot] =
        uint64_t(bit_cast<uint32_t>(row.logit(place))) << 32 | row.index(place);
  }
}

template <class T>
__global__ void __launch_bounds__(kCollectThreads) collect_kernel(Detect d) {
  const uint32_t image = blockIdx.x / d.tiles;
  uint32_t tile = blockIdx.x - image * d.tiles;
  int level = 0;
  while (level + 1 < d.p.head.num_levels && tile >= d.levels[level + 1].first_tile) ++level;
  tile -= d.levels[level].first_tile;
  const int64_t r = image * d.p.head.num_levels + level;
  const DetectRow<T> row(d, image, level);
  const CandidateBound bound = d.space.bounds[r].bound;
  const int64_t end = row.vectors();
#pragma unroll 1
  for (int round = 0; round < kCollectRounds; ++round) {
    constexpr int kStep = kCollectThreads * kCollectVectors;
    const int64_t begin = int64_t(tile) * kTileVectors + round * kStep;
    if (begin >= end) break;
    const int64_t vector = begin + threadIdx.x;
    uint4 vectors[kCollectVectors];
    if (row.is_inside(begin, kStep)) {
#pragma unroll
      for (int u = 0; u < kCollectVectors; ++u) vectors[u] = row.read_inside(vector + u * kCollectThreads);
    } else {
#pragma unroll
      for (int u = 0; u < kCollectVectors; ++u) vectors[u] = row.read(vector + u * kCollectThreads);
    }
    bool any = false;
#pragma unroll
    for (int u = 0; u < kCollectVectors; ++u) {
      ComputeType<T> values[kVector<T>];
      widen<T>(vectors[u], values);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) any |= float(values[e]) >= bound.equal;
    }
    if (!__any_sync(0xffffffffu, any)) continue;
    uint32_t hits = 0;
    if (any) {
#pragma unroll
      for (int u = 0; u < kCollectVectors; ++u) {
        ComputeType<T> values[kVector<T>];
        widen<T>(vectors[u], values);
#pragma unroll
        for (int e = 0; e < kVector<T>; ++e) {
          hits |= uint32_t(float(values[e]) >= bound.equal) << (u * kVector<T> + e);
        }
      }
    }
    append_hits(d, row, r, bound, vector, hits);
  }
}

// ---- one block per row: its best candidates, sorted ----------------------------------------------------------------

// A bitonic sort of distinct keys. Where pairs are at most 32 apart, a warp's 32 pairs are 64 keys that no other warp
// touches, and a barrier of the warp is enough.
__device__ inline void sort_keys(uint64_t* keys, uint32_t size) {
  for (uint32_t run = 2; run <= size; run *= 2) {
    for (uint32_t apart = run / 2; apart > 0; apart /= 2) {
      for (uint32_t pair = threadIdx.x; pair < size / 2; pair += kBoundThreads) {
        const uint32_t low = (pair & ~(apart - 1)) * 2 + (pair & (apart - 1));
        const uint64_t a = keys[low];
        const uint64_t b = keys[low + apart];
        if ((a > b) == ((low & run) == 0)) {
          keys[low] = b;
          keys[low + apart] = a;
        }
      }
      if (apart > 32 || (apart == 1 && run > 32)) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

// Sorts the best candidates of a source into `keys`, at least topk of them if there are that many; returns how many.
template <class Source>
__device__ uint32_t sort_best(const Detect& d, const Source& source, uint64_t count, const CandidateBound& threshold,
                              BoundSearch& search, uint64_t* keys) {
  const uint32_t room = uint32_t(d.space.keys_per_row);
  CandidateBound bound = threshold;
  bool unused = false;
  if (count > room) bound = select_bound(source, threshold, search, uint32_t(d.p.topk_candidates), room, unused);
  if (threadIdx.x == 0) search.total = 0;
  __syncthreads();
  source.for_each([&](bool candidate, float logit, uint32_t index) {
    candidate = candidate && bound.admits(logit, index);
    const unsigned votes = __ballot_sync(0xffffffffu, candidate);
    if (votes == 0) return;
    uint32_t slot = 0;
    if (threadIdx.x % 32 == 0) slot = atomicAdd(&search.total, uint32_t(__popc(votes)));
    slot = __shfl_sync(0xffffffffu, slot, 0) + uint32_t(__popc(votes & ((1u << threadIdx.x % 32) - 1)));
    if (candidate) keys[slot] = candidate_key(logit, index);
  });
  __syncthreads();
  const uint32_t found = search.total;
  uint32_t size = 1;
  while (size < found) size *= 2;
  for (uint32_t i = found + threadIdx.x; i < size; i += kBoundThreads) keys[i] = kNoKey;
  __syncthreads();
  sort_keys(keys, size);
  return found;
}

// If the guessed bound let too few or too many candidates pass, the block selects from the row itself.
template <class T>
__global__ void __launch_bounds__(kBoundThreads) sort_kernel(Detect d) {
  __shared__ BoundSearch search;
  const uint32_t image = blockIdx.x / uint32_t(d.p.head.num_levels);
  const int level = int(blockIdx.x - image * uint32_t(d.p.head.num_levels));
  const uint32_t collected = d.space.found[blockIdx.x];
  uint64_t* sorted = d.space.keys + blockIdx.x * d.space.keys_per_row;
  uint64_t* keys = d.space.keys_per_row <= d.shared_keys ? dynamic_shared<uint64_t>() : sorted;
  uint32_t found = 0;
  const DetectBound scanned = d.space.bounds[blockIdx.x];
  if (collected > d.space.room || (collected < d.p.topk_candidates && scanned.is_guess)) {
    const CandidateBound threshold = threshold_of(d);
    const DetectRow<T> row(d, image, level);
    const RowSource<T> source{row, threshold.equal, 0};
    found = sort_best(d, source, uint64_t(row.size()), threshold, search, keys);
  } else {
    const CollectedSource source{d.space.collected + blockIdx.x * d.space.room, collected};
    found = sort_best(d, source, collected, scanned.bound, search, keys);
  }
  found = uint32_t(min2(int64_t(found), d.p.topk_candidates));
  if (keys != sorted) {
    for (uint32_t i = threadIdx.x; i < found; i += kBoundThreads) sorted[i] = keys[i];
  }
  if (threadIdx.x == 0) d.space.counts[blockIdx.x] = found;
}

}  // namespace retinanet_detect_cu
}  // namespace retinanet_fast
