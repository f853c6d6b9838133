// Greedy suppression in the order of scores (kernels/nms.h), in rounds of kNmsRound ranks, without synchronisation with
// the host. A box hits a later one where their IoU is above the threshold (and their class the same).
//   rank_kernel     where no order is given. One warp per box counts the boxes before it, which is its rank: N^2
//                   comparisons, for up to kNmsCounted boxes less time than the passes of a sort.
//   gather_kernel   else. One thread per rank copies boxes and classes into that order.
// Where there is more than one round, so that the kept boxes of earlier rounds can be looked up by position:
//   place_kernel    one thread per rank: the cell of its centre in a grid, and its place in the cell. Every block finds
//                   the same extent of the grid, from a sample of the boxes.
//   scan_kernel     one block: the first slot of each cell.
// Then in each round:
//   pull_kernel     one warp per rank (but not in the first round): does a kept box of an earlier round hit it? Those
//                   lie in the cells near it.
//   mask_kernel     one thread per rank, one block per 256 ranks and 64 earlier ones; one bit per hit. Most pairs are
//                   ruled out in some 16 instructions, without a branch; of many classes, only the pairs of one class
//                   are looked at.
//   resolve_kernel  one block, four ranks per thread, in passes until all are settled: a rank is removed once a kept
//                   one hits it, and kept once all that hit it are removed. Few passes are enough, except for a chain
//                   in which each rank is hit by the one before it alone: that takes one pass per rank.
// Moves 16 bytes per box (float) a few times and, per round, the words of the mask that are not 0; up to 2 MB of them.
// Deterministic: the order of blocks decides only in which order a cell's boxes are looked at.
#include "kernels/nms.h"

#include "kernels/cuda/box_grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/suppress.cuh"
#include "math/ordering.h"

namespace retinanet_fast {
inline namespace nms_cu {

using namespace math;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kGroup = int(kMaskBits);
constexpr int kWideThreads = 1024;
constexpr int kWideWarps = kWideThreads / 32;
constexpr int kRanksPerThread = int(kNmsRound) / kWideThreads;
constexpr int kHalfWords = int(kNmsRound) / 32;
constexpr int kSlots = 4;  // that a lane reads at once
constexpr int kBatch = 8;  // pairs that are screened at once, without a branch
constexpr unsigned kAllLanes = 0xffffffffu;

template <class C>
struct Nms {
  NmsParams p;
  NmsCudaWorkspace<C> space;
  IouThreshold<C> threshold;
  double reach;  // of the threshold
  int32_t grid_side;
  int32_t round_stride;  // of the mask
  int32_t round_size;
  int64_t round_begin;

  RETINANET_FAST_INLINE int cells() const { return grid_side * grid_side; }
  __device__ bool same_class(int64_t rank, int64_t other) const {
    return p.classes == nullptr || space.classes[rank] == space.classes[other];
  }
  __device__ bool is_removed(int row) const { return round_begin > 0 && space.removed[row]; }
};

template <class T, class C>
__device__ void store_rank(const Nms<C>& nms, int64_t rank, int64_t index) {
  nms.space.boxes[rank] = load_box(static_cast<const T*>(nms.p.boxes) + 4 * index);
  if (nms.p.classes != nullptr) nms.space.classes[rank] = nms.p.classes[index];
  if (rank < nms.round_stride) nms.space.groups[rank] = 0;
  if (rank == 0) *nms.p.count = 0;
  if (nms.p.n <= kNmsRound) return;
  nms.space.kept_slot[rank] = -1;
  if (rank <= nms.cells()) nms.space.first_slot[rank] = 0;  // fewer cells than boxes
}

template <class T>
__global__ void rank_kernel(Nms<ComputeType<T>> nms) {
  const int index = blockIdx.x * kWarps + threadIdx.x / 32;
  const int n = int(nms.p.n);
  if (index >= n) return;  // a whole warp
  const T* scores = static_cast<const T*>(nms.p.scores);
  const auto key = descending_key(load(scores[index]));
  int rank = 0;
#pragma unroll 4
  for (int other = threadIdx.x % 32; other < n; other += 32) {
    const auto other_key = descending_key(load(scores[other]));
    rank += other_key < key || (other_key == key && other < index);
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) rank += __shfl_xor_sync(kAllLanes, rank, lanes);
  if (threadIdx.x % 32 != 0) return;
  nms.space.order[rank] = index;
  store_rank<T>(nms, rank, index);
}

template <class T>
__global__ void gather_kernel(Nms<ComputeType<T>> nms) {
  const int64_t rank = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank < nms.p.n) store_rank<T>(nms, rank, nms.p.order[rank]);
}

template <class C>
__global__ void place_kernel(Nms<C> nms) {
  const int64_t sampled = threadIdx.x * nms.p.n / kThreads;
  const NmsGrid grid = grid_over<kThreads>(nms.space.boxes[sampled], nms.grid_side);
  const int64_t rank = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank == 0) *nms.space.grid = grid;
  if (rank >= nms.p.n) return;
  const int cell = cell_of(grid, nms.grid_side, nms.space.boxes[rank]);
  nms.space.cell[rank] = cell;
  nms.space.place[rank] = atomicAdd(&nms.space.first_slot[cell + 1], 1);
}

// The sum of the values of a warp's lanes before this one.
__device__ int sum_before(int value) {
  const int lane = threadIdx.x % 32;
  int sum = value;
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, lanes);
    if (lane >= lanes) sum += other;
  }
  return sum - value;
}

// Turns first_slot[cell + 1] from the size of `cell` into the sum of the sizes of all cells up to it.
__global__ void scan_kernel(int32_t* first_slot, int cells) {
  __shared__ int totals[kWideWarps];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int before = 0;
  for (int first = 0; first < cells; first += kWideThreads) {
    const int cell = first + threadIdx.x;
    const int size = cell < cells ? first_slot[cell + 1] : 0;
    const int in_warp = sum_before(size);
    if (lane == 31) totals[warp] = in_warp + size;
    __syncthreads();
    const int total = totals[lane];
    const int warps_before = sum_before(total);
    if (cell < cells) first_slot[cell + 1] = before + __shfl_sync(kAllLanes, warps_before, warp) + in_warp + size;
    before += __shfl_sync(kAllLanes, warps_before + total, 31);
    __syncthreads();
  }
}

template <class C>
__global__ void pull_kernel(Nms<C> nms) {
  const int row = blockIdx.x * kWarps + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= nms.round_size) return;  // a whole warp
  const int64_t rank = nms.round_begin + row;
  const Box<C> box = nms.space.boxes[rank];
  const C box_area = area(box);
  const CellRange near = cells_near(*nms.space.grid, nms.grid_side, box, nms.reach);
  bool removed = false;
  for (int y = near.top; y <= near.bottom && !removed; ++y) {
    const int32_t* first_slot = nms.space.first_slot + y * nms.grid_side;
    const int end = first_slot[near.right + 1];
    for (int first = first_slot[near.left]; first < end && !removed; first += 32 * kSlots) {
      int others[kSlots];
#pragma unroll
      for (int i = 0; i < kSlots; ++i) {
        const int slot = first + 32 * i + lane;
        others[i] = slot < end ? nms.space.kept_slot[slot] : -1;
      }
      bool hit = false;
#pragma unroll
      for (const int other : others) {
        if (other < 0 || !nms.same_class(other, rank)) continue;
        const Box<C> kept = nms.space.boxes[other];
        hit |= overlaps(nms.threshold, kept, area(kept), box, box_area);
      }
      removed = __any_sync(kAllLanes, hit);
    }
  }
  if (lane == 0) nms.space.removed[row] = removed;
}

template <class C>
__global__ void mask_kernel(Nms<C> nms) {
  __shared__ Box<C> boxes[kGroup];  // of the ranks that are not removed
  __shared__ C areas[kGroup];
  __shared__ int64_t classes[kGroup];
  __shared__ SharedBits of_class[kGroup];  // the places of the boxes, by their class modulo kGroup
  __shared__ int8_t bits[kGroup];
  __shared__ unsigned alive[kGroup / 32];
  const int thread = threadIdx.x;
  const int group = blockIdx.y;
  const int first_row = group * kGroup;
  const int column = blockIdx.x * kThreads + thread;
  if (int(blockIdx.x + 1) * kThreads <= first_row) return;  // a whole block of columns before the rows
  const bool with_classes = nms.p.classes != nullptr;
  const int row = first_row + thread;
  const bool is_row = thread < kGroup && row < nms.round_size && !nms.is_removed(row);
  const unsigned rows_in_warp = __ballot_sync(kAllLanes, is_row);
  if (thread < kGroup && thread % 32 == 0) alive[thread / 32] = rows_in_warp;
  if (thread < kGroup) of_class[thread].set(0);
  __syncthreads();
  const MaskWord rows = alive[0] | MaskWord(alive[1]) << 32;
  if (thread < kGroup && thread >= __popcll(rows)) {  // whole batches are read
    boxes[thread] = {};
    areas[thread] = C(0);
  }
  if (is_row) {
    const int place = bits_below(rows, thread);
    const Box<C> box = nms.space.boxes[nms.round_begin + row];
    boxes[place] = box;
    areas[place] = area(box);
    bits[place] = int8_t(thread);
    if (with_classes) {
      classes[place] = nms.space.classes[nms.round_begin + row];
      of_class[uint64_t(classes[place]) % kGroup].add(MaskWord(1) << place);
    }
  }
  __syncthreads();
  if (column <= first_row || column >= nms.round_size || nms.is_removed(column)) return;
  const int64_t rank = nms.round_begin + column;
  const Box<C> box = nms.space.boxes[rank];
  const C box_area = area(box);
  const int64_t box_class = with_classes ? nms.space.classes[rank] : 0;
  const int earlier = column - first_row < kGroup ? bits_below(rows, column - first_row) : __popcll(rows);
  const auto same_class = [&](int i) { return !with_classes || classes[i] == box_class; };
  MaskWord may_be_same = earlier == kGroup ? ~MaskWord(0) : (MaskWord(1) << earlier) - 1;
  if (with_classes) may_be_same &= of_class[uint64_t(box_class) % kGroup].get();
  MaskWord word = 0;
  if (2 * __popcll(may_be_same) < earlier) {
    for (; may_be_same != 0; may_be_same &= may_be_same - 1) {
      const int i = __ffsll(static_cast<long long>(may_be_same)) - 1;
      if (same_class(i) && overlaps(nms.threshold, boxes[i], areas[i], box, box_area)) word |= MaskWord(1) << bits[i];
    }
  } else {
    for (int first = 0; first < earlier; first += kBatch) {
      unsigned candidates = 0;  // the few pairs that need the division
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        candidates |= unsigned(may_overlap(nms.threshold, boxes[first + i], areas[first + i], box, box_area)) << i;
      }
      if (!nms.threshold.screened) candidates = ~0u >> (32 - kBatch);
      for (; candidates != 0; candidates &= candidates - 1) {
        const int i = first + __ffs(int(candidates)) - 1;
        if (i >= earlier || !same_class(i)) continue;
        if (nms.threshold.exceeded_by(boxes[i], areas[i], box, box_area)) word |= MaskWord(1) << bits[i];
      }
    }
  }
  if (word == 0) return;
  nms.space.mask[int64_t(group) * nms.round_stride + column] = word;
  atomicOr(&nms.space.groups[column], MaskWord(1) << group);
}

// The state of a rank: settled, or what it waits for.
template <class C>
struct Rank {
  MaskWord groups = 0;  // of 64 ranks, in which some hit it, and which have not been looked at
  MaskWord word = 0;    // the ranks of the current group that hit it
  int group = 0;
  bool waits = false;
  bool kept = false;

  __device__ void next_group(const Nms<C>& nms, int column) {
    group = __ffsll(static_cast<long long>(groups)) - 1;
    groups &= groups - 1;
    word = nms.space.mask[int64_t(group) * nms.round_stride + column];
  }
};

template <class C>
__global__ void __launch_bounds__(kWideThreads) resolve_kernel(Nms<C> nms) {
  __shared__ MaskWord kept[2][kGroup];  // in this pass and in the next
  __shared__ MaskWord waiting[2][kGroup];
  __shared__ int kept_before[kHalfWords];
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int64_t count = *nms.p.count;
  Rank<C> ranks[kRanksPerThread];

  const auto publish = [&](int pass, int i) {
    const unsigned kept_lanes = __ballot_sync(kAllLanes, ranks[i].kept);
    const unsigned waiting_lanes = __ballot_sync(kAllLanes, ranks[i].waits);
    if (lane != 0) return;
    reinterpret_cast<unsigned*>(kept[pass])[i * kWideWarps + thread / 32] = kept_lanes;
    reinterpret_cast<unsigned*>(waiting[pass])[i * kWideWarps + thread / 32] = waiting_lanes;
  };
  const auto column_of = [&](int i) { return i * kWideThreads + thread; };

#pragma unroll
  for (int i = 0; i < kRanksPerThread; ++i) {
    const int column = column_of(i);
    ranks[i].waits = column < nms.round_size && !nms.is_removed(column);
    if (ranks[i].waits) ranks[i].groups = nms.space.groups[column];
  }
#pragma unroll
  for (int i = 0; i < kRanksPerThread; ++i) {
    if (ranks[i].groups != 0) {
      nms.space.groups[column_of(i)] = 0;  // for the next round
      ranks[i].next_group(nms, column_of(i));
    }
    publish(0, i);
  }
  __syncthreads();

  int pass = 0;
  bool again = true;
  while (again) {
    again = false;
#pragma unroll
    for (int i = 0; i < kRanksPerThread; ++i) {
      Rank<C>& rank = ranks[i];
      if (rank.waits) {
        if (rank.word & kept[pass][rank.group]) {
          rank.waits = false;
        } else if (!(rank.word & waiting[pass][rank.group])) {
          if (rank.groups != 0) {
            rank.next_group(nms, column_of(i));
          } else {
            rank.kept = true;
            rank.waits = false;
          }
        }
        again |= rank.waits;
      }
      publish(pass ^ 1, i);
    }
    pass ^= 1;
    again = __syncthreads_or(again);
  }

  const unsigned* words = reinterpret_cast<const unsigned*>(kept[pass]);
  if (thread < 32) {
    int sizes[kHalfWords / 32];
    int size = 0;
    for (int i = 0; i < kHalfWords / 32; ++i) size += sizes[i] = __popc(words[lane * (kHalfWords / 32) + i]);
    int before = sum_before(size);
    for (int i = 0; i < kHalfWords / 32; ++i) {
      kept_before[lane * (kHalfWords / 32) + i] = before;
      before += sizes[i];
    }
    if (lane == 31) *nms.p.count = count + before;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRanksPerThread; ++i) {
    if (!ranks[i].kept) continue;
    const int word = column_of(i) / 32;
    const int64_t rank = nms.round_begin + column_of(i);
    const int64_t place = count + kept_before[word] + bits_below(words[word], lane);
    nms.p.kept[place] = nms.p.order != nullptr ? nms.p.order[rank] : nms.space.order[rank];
    if (nms.round_begin + nms.round_size < nms.p.n) {
      nms.space.kept_slot[nms.space.first_slot[nms.space.cell[rank]] + nms.space.place[rank]] = int(rank);
    }
  }
}

template <class T>
Status run_nms(const NmsParams& p, CudaStream stream) {
  using C = ComputeType<T>;
  const NmsCudaWorkspace<C> space(p.workspace, p.n, p.classes != nullptr);
  if (p.workspace == nullptr) {
    *p.workspace_bytes = space.bytes;
    return {};
  }
  const IouThreshold<C> threshold(p.iou_threshold);
  Nms<C> nms{p, space, threshold, centre_reach(threshold), nms_grid_side(p.n), int32_t(min2(p.n, kNmsRound)), 0, 0};
  const dim3 all(unsigned(ceil_div(p.n, kThreads)));
  Status status;
  if (p.order == nullptr) {
    status = launch(rank_kernel<T>, dim3(unsigned(ceil_div(p.n, kWarps))), dim3(kThreads), 0, stream, nms);
  } else {
    status = launch(gather_kernel<T>, all, dim3(kThreads), 0, stream, nms);
  }
  if (p.n > kNmsRound && status.ok()) {
    status = launch(place_kernel<C>, all, dim3(kThreads), 0, stream, nms);
    if (status.ok()) {
      status = launch(scan_kernel, dim3(1), dim3(kWideThreads), 0, stream, nms.space.first_slot, nms.cells());
    }
  }
  for (int64_t begin = 0; begin < p.n && status.ok(); begin += kNmsRound) {
    nms.round_begin = begin;
    nms.round_size = int32_t(min2(kNmsRound, p.n - begin));
    const dim3 ranks(unsigned(ceil_div(nms.round_size, kWarps)));
    const dim3 pairs(unsigned(ceil_div(nms.round_size, kThreads)), unsigned(ceil_div(nms.round_size, kGroup)));
    if (begin > 0) status = launch(pull_kernel<C>, ranks, dim3(kThreads), 0, stream, nms);
    if (status.ok()) status = launch(mask_kernel<C>, pairs, dim3(kThreads), 0, stream, nms);
    if (status.ok()) status = launch(resolve_kernel<C>, dim3(1), dim3(kWideThreads), 0, stream, nms);
  }
  return status;
}

}  // namespace nms_cu

Status nms_cuda(const NmsParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) { return run_nms<decltype(zero)>(p, stream); });
}

}  // namespace retinanet_fast
