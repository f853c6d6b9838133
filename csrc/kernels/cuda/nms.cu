// Greedy suppression of boxes in score order, in rounds of kNmsRound ranks; no synchronisation with the host.
//   gather_kernel   a thread a rank: boxes and classes into score order. Moves 2 * 16 bytes a box (fp32).
//   mask_kernel     a block of 64 threads for 64 x 64 pairs of the round, a thread a row; the columns' boxes are read
//                   from shared memory, where all threads read the same one (a broadcast). Bit j of row i is set
//                   where i suppresses j > i; round^2 / 8 bytes are written, half of them.
//   reduce_kernel   one block: walks the round 64 ranks at a time, resolves them among themselves by their diagonal
//                   word, and ORs the rows of the kept ones into the removed words of the rest, a thread a word.
//   sweep_kernel    a thread a rank of the later rounds: compared with every box that the round has kept, which pass
//                   through shared memory in tiles.
// Deterministic: bits are combined by OR alone, and lists are written in rank order.
#include "kernels/nms.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/suppress.cuh"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;
constexpr int kMaskRow = int(kMaskBits);
constexpr int kRoundWords = int(kNmsRound / kMaskBits);

template <class C>
struct Nms {
  NmsParams p;
  NmsCudaWorkspace<C> space;
  IouThreshold<C> threshold;
  int64_t round_begin;
  int32_t round_size;

  __device__ bool same_class(int64_t rank, int64_t other) const {
    return p.classes == nullptr || space.classes[rank] == space.classes[other];
  }
};

template <class T>
__global__ void gather_kernel(Nms<ComputeType<T>> nms) {
  const int64_t rank = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rank == 0) *nms.p.count = 0;
  if (rank >= nms.p.n) return;
  const int64_t index = nms.p.order[rank];
  nms.space.boxes[rank] = load_box(static_cast<const T*>(nms.p.boxes) + 4 * index);
  nms.space.removed[rank] = 0;
  if (nms.p.classes != nullptr) nms.space.classes[rank] = nms.p.classes[index];
}

template <class C>
__global__ void mask_kernel(Nms<C> nms) {
  const int row_block = blockIdx.y;
  const int column_block = blockIdx.x;
  if (column_block < row_block) return;
  __shared__ Box<C> columns[kMaskRow];
  __shared__ C areas[kMaskRow];
  const int first_column = column_block * kMaskRow;
  const int num_columns = min(kMaskRow, nms.round_size - first_column);
  const int lane = threadIdx.x;
  if (lane < num_columns) {
    columns[lane] = nms.space.boxes[nms.round_begin + first_column + lane];
    areas[lane] = area(columns[lane]);
  }
  __syncthreads();
  const int row = row_block * kMaskRow + lane;
  if (row >= nms.round_size) return;
  const int64_t rank = nms.round_begin + row;
  MaskWord word = 0;
  if (!nms.space.removed[rank]) {
    const Box<C> box = nms.space.boxes[rank];
    const C box_area = area(box);
    for (int j = column_block == row_block ? lane + 1 : 0; j < num_columns; ++j) {
      const bool hit = overlaps(nms.threshold, box, box_area, columns[j], areas[j]);
      if (hit && nms.same_class(rank, nms.round_begin + first_column + j)) word |= MaskWord(1) << j;
    }
  }
  const int words = (nms.round_size + kMaskRow - 1) / kMaskRow;
  nms.space.mask[int64_t(row) * words + column_block] = word;
}

template <class C>
__global__ void reduce_kernel(Nms<C> nms) {
  __shared__ MaskWord removed[kRoundWords];
  __shared__ MaskWord diagonal[kMaskRow];
  __shared__ MaskWord kept_in_group;
  const int words = (nms.round_size + kMaskRow - 1) / kMaskRow;
  const int thread = threadIdx.x;
  for (int word = thread; word < words; word += blockDim.x) {
    MaskWord bits = 0;
    for (int j = 0; j < kMaskRow; ++j) {
      const int row = word * kMaskRow + j;
      const bool gone = row >= nms.round_size || nms.space.removed[nms.round_begin + row];
      bits |= MaskWord(gone) << j;
    }
    removed[word] = bits;
  }
  const int64_t count_before = *nms.p.count;
  int count = 0;  // kept in this round so far, the same in every thread
  for (int group = 0; group < words; ++group) {
    const int first_row = group * kMaskRow;
    if (thread < kMaskRow && first_row + thread < nms.round_size) {
      diagonal[thread] = nms.space.mask[int64_t(first_row + thread) * words + group];
    }
    __syncthreads();
    if (thread == 0) kept_in_group = resolve(~removed[group], diagonal);
    __syncthreads();
    const MaskWord kept = kept_in_group;
    if (thread < kMaskRow && (kept >> thread & 1)) {
      const int place = count + bits_below(kept, thread);
      const int64_t rank = nms.round_begin + first_row + thread;
      nms.space.round_kept[place] = int32_t(rank);
      nms.p.kept[count_before + place] = nms.p.order[rank];
    }
    count += __popcll(kept);
    // Threads are words x slices of the group's rows.
    const int slices = blockDim.x / kRoundWords;
    const int word = thread % kRoundWords;
    if (word > group && word < words) {
      MaskWord bits = 0;
      for (int j = thread / kRoundWords; j < kMaskRow; j += slices) {
        if (kept >> j & 1) bits |= nms.space.mask[int64_t(first_row + j) * words + word];
      }
      if (bits != 0) atomicOr(&removed[word], bits);
    }
    __syncthreads();
  }
  if (thread == 0) {
    *nms.space.round_count = count;
    *nms.p.count = count_before + count;
  }
}

template <class C>
__global__ void sweep_kernel(Nms<C> nms) {
  __shared__ Box<C> kept[kThreads];
  __shared__ C areas[kThreads];
  __shared__ int64_t classes[kThreads];
  const int64_t rank = nms.round_begin + nms.round_size + int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool exists = rank < nms.p.n;
  const bool with_classes = nms.p.classes != nullptr;
  bool alive = exists && !nms.space.removed[rank];
  const Box<C> box = exists ? nms.space.boxes[rank] : Box<C>{};
  const C box_area = area(box);
  const int64_t box_class = exists && with_classes ? nms.space.classes[rank] : 0;
  const int count = *nms.space.round_count;
  for (int tile = 0; tile < count; tile += kThreads) {
    const int in_tile = min(kThreads, count - tile);
    if (int(threadIdx.x) < in_tile) {
      const int64_t other = nms.space.round_kept[tile + threadIdx.x];
      kept[threadIdx.x] = nms.space.boxes[other];
      areas[threadIdx.x] = area(kept[threadIdx.x]);
      classes[threadIdx.x] = with_classes ? nms.space.classes[other] : 0;
    }
    __syncthreads();
    for (int j = 0; alive && j < in_tile; ++j) {
      alive = !(classes[j] == box_class && overlaps(nms.threshold, kept[j], areas[j], box, box_area));
    }
    __syncthreads();
  }
  if (exists && !alive) nms.space.removed[rank] = 1;
}

template <class T>
Status run_nms(const NmsParams& p, CudaStream stream) {
  using C = ComputeType<T>;
  Nms<C> nms{p, NmsCudaWorkspace<C>(p.workspace, p.n, p.classes != nullptr), IouThreshold<C>(p.threshold), 0, 0};
  Status status = launch(gather_kernel<T>, dim3(ceil_div(p.n, kThreads)), dim3(kThreads), 0, stream, nms);
  for (int64_t begin = 0; begin < p.n && status.ok(); begin += kNmsRound) {
    nms.round_begin = begin;
    nms.round_size = int32_t(min2(kNmsRound, p.n - begin));
    const auto groups = unsigned(ceil_div(nms.round_size, kMaskBits));
    const int64_t later = p.n - begin - nms.round_size;
    status = launch(mask_kernel<C>, dim3(groups, groups), dim3(kMaskRow), 0, stream, nms);
    if (status.ok()) status = launch(reduce_kernel<C>, dim3(1), dim3(kThreads), 0, stream, nms);
    if (status.ok()) status = launch(sweep_kernel<C>, dim3(ceil_div(later, kThreads)), dim3(kThreads), 0, stream, nms);
  }
  return status;
}

}  // namespace

Status nms_cuda(const NmsParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) { return run_nms<decltype(zero)>(p, stream); });
}

}  // namespace retinanet_fast
