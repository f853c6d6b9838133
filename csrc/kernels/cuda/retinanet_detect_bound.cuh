// One block finds a bound that lets enough candidates pass, and not too many: a radix selection that stops early.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common.h"
#include "math/score.h"

namespace retinanet_fast {

constexpr int kBoundThreads = 1024;
constexpr int kBoundBins = 2 * kBoundThreads;
constexpr int kBoundBits = 11;
static_assert(kBoundBins == 1 << kBoundBits);

// In shared memory.
struct BoundSearch {
  uint32_t counts[kBoundBins];
  uint32_t warps[kBoundThreads / 32];
  uint32_t total;
  uint32_t digit;   // the bin of the wanted candidate,
  uint32_t before;  // and how many candidates lie in bins before it
  float ends[2];
};

// The sum of x over the lanes up to and including this one.
__device__ __forceinline__ uint32_t warp_prefix(uint32_t x) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, x, unsigned(distance));
    if (int(threadIdx.x % 32) >= distance) x += other;
  }
  return x;
}

// Sets total and, for the `wanted`-th (from 1) of what has been counted, if there are that many, digit and before.
__device__ inline void find_digit(BoundSearch& search, uint32_t wanted) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t first = search.counts[2 * threadIdx.x];
  const uint32_t both = first + search.counts[2 * threadIdx.x + 1];
  const uint32_t in_warp = warp_prefix(both);
  if (lane == 31) search.warps[warp] = in_warp;
  __syncthreads();
  const uint32_t warps = warp_prefix(search.warps[lane]);
  const uint32_t warps_before = __shfl_sync(0xffffffffu, warps, int(warp + 31) % 32);
  const uint32_t through = in_warp + (warp == 0 ? 0 : warps_before);
  const uint32_t before = through - both;
  if (before < wanted && wanted <= through) {
    const bool second = before + first < wanted;
    search.digit = 2 * threadIdx.x + second;
    search.before = before + (second ? first : 0);
  }
  if (threadIdx.x == kBoundThreads - 1) search.total = through;
  __syncthreads();
}

struct KeyRange {
  uint32_t first;
  uint32_t last;
};

// Lowers the end of a range of keys as far as the range still has the `rank` smallest keys, and until it has no more
// than `most` if that is possible; returns how many it has. `key_of(logit, index, key)` is true for the candidates that
// count and gives their key. All threads of the block call it and get the same result.
template <class Source, class KeyOf>
__device__ uint32_t narrow(const Source& source, BoundSearch& search, KeyRange& range, uint32_t rank, uint32_t most,
                           const KeyOf& key_of) {
  uint32_t before = 0;  // keys that are smaller than `first`
  for (uint32_t first = range.first;;) {
    const int shift = max(0, 32 - __clz(int(range.last - first)) - kBoundBits);
    for (int bin = int(threadIdx.x); bin < kBoundBins; bin += kBoundThreads) search.counts[bin] = 0;
    __syncthreads();
    source.for_each([&](bool candidate, float logit, uint32_t index) {
      uint32_t key = 0;
      if (candidate && key_of(logit, index, key) && key >= first && key <= range.last) {
        atomicAdd(&search.counts[(key - first) >> shift], 1u);
      }
    });
    __syncthreads();
    find_digit(search, rank - before);
    uint32_t through = before + search.total;
    const bool all_fit = through <= most;
    if (!all_fit) {
      first += search.digit << shift;
      range.last = math::min2(range.last, first + ((1u << shift) - 1));
      before += search.before;
      through = before + search.counts[search.digit];
    }
    __syncthreads();
    if (all_fit || shift == 0 || through <= most) return through;
  }
}

// By one warp: the number of steps by which a logit's key can be lowered (direction -1) or raised (1) before its score
// changes. Scores never fall as logits rise, so 32 distances are tried at once: first growing ones, then ever finer.
__device__ inline uint32_t steps_of_equal_score(float logit, int direction) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t key = math::ascending_key(logit);
  const uint32_t end = math::ascending_key(direction < 0 ? -kInfinity : kInfinity);
  const float score = math::sigmoid_score(logit);
  uint32_t equal = 0;                                               // steps that leave the score as it is,
  uint32_t differs = (direction < 0 ? key - end : end - key) + 1u;  // and that change it
  for (uint32_t stride = 0; differs - equal > 1; stride = (differs - equal - 1) / 32 + 1) {
    const uint32_t steps = equal + (stride == 0 ? 1u << lane : (lane + 1) * stride);
    const bool tried = steps > equal && steps < differs;
    const float other = math::from_ascending_key(direction < 0 ? key - steps : key + steps);
    const unsigned votes = __ballot_sync(0xffffffffu, tried && math::sigmoid_score(other) == score);
    const int same = __popc(votes);  // lanes from 0 on
    const uint32_t last_same = __shfl_sync(0xffffffffu, steps, same == 0 ? 0 : same - 1);
    const uint32_t next = __shfl_sync(0xffffffffu, steps, same == 32 ? 31 : same);
    const bool next_tried = __shfl_sync(0xffffffffu, int(tried), same == 32 ? 31 : same) != 0;
    if (same < 32 && next_tried) differs = next;
    if (same > 0) equal = last_same;
  }
  return equal;
}

// A bound that lets the `rank` best candidates of a source pass and (if rank <= most) at most `most`; `threshold` where
// that does so already. source.for_each(visit) calls visit(candidate, logit, index) for this thread's logits;
// `candidate` says whether they are above the threshold.
template <class Source>
__device__ math::CandidateBound select_bound(const Source& source, const math::CandidateBound& threshold,
                                             BoundSearch& search, uint32_t rank, uint32_t most, bool& is_threshold) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const uint32_t worst = ~math::ascending_key(threshold.equal);
  KeyRange logits{~math::ascending_key(kInfinity), worst};
  const uint32_t through = narrow(source, search, logits, rank, most, [](float logit, uint32_t, uint32_t& key) {
    key = ~math::ascending_key(logit);
    return true;
  });
  is_threshold = logits.last == worst && through <= most;
  if (is_threshold) return threshold;

  // A lower logit with the same score and a lower index is better, so an exact bound goes by scores.
  const uint32_t key = ~logits.last;
  const uint32_t warp = threadIdx.x / 32;
  if (warp < 2) {
    const uint32_t steps = steps_of_equal_score(math::from_ascending_key(key), warp == 0 ? -1 : 1);
    if (threadIdx.x % 32 == 0) search.ends[warp] = math::from_ascending_key(warp == 0 ? key - steps : key + steps);
  }
  if (threadIdx.x < 2) search.counts[threadIdx.x] = 0;
  __syncthreads();
  math::CandidateBound bound{search.ends[1], search.ends[0], 0};
  bound.above = bound.above < kInfinity ? math::from_ascending_key(math::ascending_key(bound.above) + 1)
                                        : std::numeric_limits<float>::quiet_NaN();
  source.for_each([&](bool candidate, float logit, uint32_t) {
    if (candidate && logit >= bound.equal) atomicAdd(&search.counts[logit >= bound.above], 1u);
  });
  __syncthreads();
  const uint32_t above = search.counts[1];
  const uint32_t equal = search.counts[0];
  __syncthreads();
  if (above + equal <= most) return {bound.equal, bound.equal, 0};
  if (above >= rank) return {bound.above, bound.above, 0};
  KeyRange indices{0, ~0u};
  narrow(source, search, indices, rank - above, most - above, [&](float logit, uint32_t index, uint32_t& key) {
    key = index;
    return logit >= bound.equal && !(logit >= bound.above);
  });
  bound.index = indices.last + (indices.last != ~0u);  // no candidate has index ~0
  return bound;
}

}  // namespace retinanet_fast
