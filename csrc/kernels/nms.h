// Greedy non-maximum suppression, of all boxes against each other or class by class.
#pragma once

#include "kernels/common.h"
#include "kernels/workspace.h"
#include "math/box.h"
#include "math/ordering.h"

namespace retinanet_fast {

// In order of descending score (equal scores in input order, NaN first) a box is kept unless its IoU with a box kept
// before, of its own class if there are classes, is > threshold. A NaN IoU suppresses nothing.
struct NmsParams {
  const void* boxes;       // [N, 4] xyxy
  const void* scores;      // [N], of the boxes' dtype
  const int64_t* classes;  // [N], or null: all are one class
  const int64_t* order;    // [N], the order above; null where the kernel sorts: on the CPU, on CUDA up to kNmsCounted
  void* workspace;         // [nms_cpu_workspace_bytes()] or [nms_cuda_workspace_bytes()]
  int64_t* kept;           // [N], of which the first `count` are written: indices of the kept boxes, best first
  int64_t* count;          // [1]
  int64_t n;               // < 2^31
  double iou_threshold;
  DType dtype;
};

// Sixteen kept boxes as a structure of arrays, so that one vector loop over lanes compares them with a candidate. An
// empty lane has a NaN area, which makes every IoU with it NaN.
template <class C>
struct alignas(64) KeptBlock {
  static constexpr int kLanes = 16;
  C x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes];
};

// A chain of blocks, newest first, linked by index; only the newest has empty lanes.
struct KeptChain {
  int32_t newest = -1;
  int32_t lanes_used = KeptBlock<float>::kLanes;
};

// An index to be sorted by its key.
template <class K>
struct SortItem {
  K key;
  uint32_t index;
};

// A CPU task is consecutive classes that have at least this many boxes together.
constexpr int64_t kNmsTaskBoxes = 2048;

struct NmsTask {
  int64_t begin;
  int64_t end;  // positions among the boxes ordered by class
};

// Where the workspace of a task whose boxes begin at `position` starts: its chains of kept boxes, one per cell of a
// grid, and their blocks, of which each chain's newest may be almost empty.
constexpr int kKeptGridLevels = 16;
constexpr int64_t kept_cells_before(int64_t position, int64_t task) { return position / 8 + kKeptGridLevels * task; }
constexpr int64_t kept_blocks_before(int64_t position, int64_t task) {
  return position / KeptBlock<float>::kLanes + task + kept_cells_before(position, task) + task;
}

template <class C>
struct NmsCpuWorkspace {
  SortItem<math::Key<C>>* by_score[2];  // [N] each, the second a spare for the sort
  SortItem<uint64_t>* by_class[2];      // [N] each, only with classes; index = rank by score
  NmsTask* tasks;                       // [N / kNmsTaskBoxes + 1]
  KeptChain* cells;
  KeptBlock<C>* blocks;
  int32_t* next_block;  // of each block, the one before it in its chain
  uint8_t* is_kept;     // [N], by rank
  size_t bytes;

  RETINANET_FAST_INLINE NmsCpuWorkspace(void* base, int64_t n, bool classes) {
    Workspace space(base);
    const int64_t num_tasks = n / kNmsTaskBoxes + 1;
    const int64_t num_blocks = kept_blocks_before(n, num_tasks) + 1;
    for (auto& items : by_score) items = space.take<SortItem<math::Key<C>>>(n);
    for (auto& items : by_class) items = space.take<SortItem<uint64_t>>(classes ? n : 0);
    tasks = space.take<NmsTask>(num_tasks);
    cells = space.take<KeptChain>(kept_cells_before(n, num_tasks));
    blocks = space.take<KeptBlock<C>>(num_blocks);
    next_block = space.take<int32_t>(num_blocks);
    is_kept = space.take<uint8_t>(n);
    bytes = space.bytes();
  }
};

RETINANET_FAST_INLINE size_t nms_cpu_workspace_bytes(int64_t n, bool classes, DType dtype) {
  return dtype == DType::kFloat64 ? NmsCpuWorkspace<double>(nullptr, n, classes).bytes
                                  : NmsCpuWorkspace<float>(nullptr, n, classes).bytes;
}

// On CUDA, ranks are settled in rounds of this many. A rank is compared with the kept boxes of earlier rounds, which
// lie in a grid, and with the ranks before it in its own round; those hits go into a bit mask of one round, so that
// memory grows linearly with N.
constexpr int64_t kMaskBits = 64;
constexpr int64_t kNmsRound = kMaskBits * kMaskBits;  // so that a word has one bit per group of 64 ranks
using MaskWord = unsigned long long;                  // the type that CUDA's atomics take

// Up to this many scores are ranked by counting those before each.
constexpr int64_t kNmsCounted = 2 * kNmsRound;

// Cells along each axis of the grid, for a few boxes per cell.
RETINANET_FAST_INLINE int32_t nms_grid_side(int64_t n) {
  int32_t side = 8;
  while (side < 128 && 8 * int64_t(side) * side < n) side *= 2;
  return side;
}

// The first cell's corner, and cells per pixel along each axis. A centre beyond the grid belongs to the nearest cell.
struct NmsGrid {
  double left, top, per_x, per_y;
};

template <class C>
struct NmsCudaWorkspace {
  int32_t* order;       // [N], only where the kernels rank the scores
  math::Box<C>* boxes;  // [N], by rank
  int64_t* classes;     // [N], by rank; only with classes
  MaskWord* mask;       // [round / 64, round]; bit j of (g, i): rank 64 g + j of the round suppresses the later rank i
  MaskWord* groups;     // [round]; bit g of i: word (g, i) is not 0 (else it is not written). 0 where a round begins
  // Only where there is more than one round, to look up the kept boxes of earlier ones:
  uint8_t* removed;     // [round]; by one of them
  NmsGrid* grid;        // [1]
  int32_t* cell;        // [N], by rank
  int32_t* place;       // [N], by rank, within its cell
  int32_t* first_slot;  // [cells + 1]; every box has a slot, those of a cell side by side
  int32_t* kept_slot;   // [N], by slot: the rank of a kept box, else -1
  size_t bytes;

  RETINANET_FAST_INLINE NmsCudaWorkspace(void* base, int64_t n, bool with_classes) {
    Workspace space(base);
    const int64_t round = math::min2(n, kNmsRound);
    const bool rounds = n > kNmsRound;
    const int64_t cells = int64_t(nms_grid_side(n)) * nms_grid_side(n);
    order = space.take<int32_t>(n <= kNmsCounted ? n : 0);
    boxes = space.take<math::Box<C>>(n);
    classes = space.take<int64_t>(with_classes ? n : 0);
    mask = space.take<MaskWord>(ceil_div(round, kMaskBits) * round);
    groups = space.take<MaskWord>(round);
    removed = space.take<uint8_t>(rounds ? round : 0);
    grid = space.take<NmsGrid>(rounds ? 1 : 0);
    cell = space.take<int32_t>(rounds ? n : 0);
    place = space.take<int32_t>(rounds ? n : 0);
    first_slot = space.take<int32_t>(rounds ? cells + 1 : 0);
    kept_slot = space.take<int32_t>(rounds ? n : 0);
    bytes = space.bytes();
  }
};

RETINANET_FAST_INLINE size_t nms_cuda_workspace_bytes(int64_t n, bool classes, DType dtype) {
  return dtype == DType::kFloat64 ? NmsCudaWorkspace<double>(nullptr, n, classes).bytes
                                  : NmsCudaWorkspace<float>(nullptr, n, classes).bytes;
}

Status nms_cuda(const NmsParams& params, CudaStream stream);

}  // namespace retinanet_fast
