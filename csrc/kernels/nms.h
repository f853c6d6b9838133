// Greedy non-maximum suppression, of all boxes against each other or class by class.
#pragma once

#include "kernels/common.h"
#include "kernels/workspace.h"
#include "math/box.h"
#include "math/ordering.h"

namespace retinanet_fast {

// Boxes in order of descending score (equal scores in input order, NaN first): a box is kept unless a kept box
// before it, of its own class where there are classes, has iou > threshold with it. A NaN iou suppresses nothing.
struct NmsParams {
  const void* boxes;       // [N, 4] xyxy
  const void* scores;      // [N], of the boxes' dtype
  const int64_t* classes;  // [N], or null: all are one class
  const int64_t* order;    // [N] on CUDA: the order above; on the CPU null, the kernel sorts
  void* workspace;         // nms_cpu_workspace_bytes or nms_cuda_workspace_bytes
  int64_t* kept;           // [N], of which the first `count` are written: indices of the kept boxes, best first
  int64_t* count;          // [1]
  int64_t n;               // < 2^31
  double threshold;
  DType dtype;
};

// Sixteen kept boxes, a structure of arrays that one loop over lanes compares with a candidate. An empty lane has
// a NaN area, which makes every IoU with it NaN. Blocks are chained by index.
template <class C>
struct alignas(64) KeptBlock {
  static constexpr int kLanes = 16;
  C x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes];
};

// A chain of blocks, newest first; only the newest has empty lanes.
struct KeptChain {
  int32_t newest = -1;
  int32_t lanes_used = KeptBlock<float>::kLanes;
};

// What is sorted: an index by its key.
template <class K>
struct SortItem {
  K key;
  uint32_t index;
};

// On the CPU, classes are handled as tasks of consecutive classes with at least this many boxes together.
constexpr int64_t kNmsTaskBoxes = 2048;

struct NmsTask {
  int64_t begin;
  int64_t end;  // positions among the boxes ordered by class
};

// What a task over [begin, end) may need starts at these places: chains of kept boxes, one for each cell of a grid,
// and their blocks, of which each chain's newest may be almost empty.
constexpr int kKeptGridLevels = 16;
constexpr int64_t kept_cells_before(int64_t position, int64_t task) { return position / 8 + kKeptGridLevels * task; }
constexpr int64_t kept_blocks_before(int64_t position, int64_t task) {
  return position / KeptBlock<float>::kLanes + task + kept_cells_before(position, task) + task;
}

template <class C>
struct NmsCpuWorkspace {
  SortItem<math::Key<C>>* by_score[2];  // [N] and a spare for the sort
  SortItem<uint64_t>* by_class[2];      // [N], only with classes; index = rank by score
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

// On CUDA, ranks are settled in rounds of this many: first among themselves by a bit mask of that size squared,
// then the kept ones sweep the ranks of all later rounds. Memory is linear in N beyond one round.
constexpr int64_t kNmsRound = 4096;
constexpr int64_t kMaskBits = 64;
using MaskWord = unsigned long long;  // the type that CUDA's atomics take

template <class C>
struct NmsCudaWorkspace {
  math::Box<C>* boxes;  // [N], by rank
  int64_t* classes;     // [N], by rank; only with classes
  uint8_t* removed;     // [N], by rank
  MaskWord* mask;       // [round, round / 64]; bit j of row i: i suppresses j > i
  int32_t* round_kept;  // [round], the ranks that the round keeps, ascending
  int32_t* round_count;
  size_t bytes;

  RETINANET_FAST_INLINE NmsCudaWorkspace(void* base, int64_t n, bool with_classes) {
    Workspace space(base);
    const int64_t round = math::min2(n, kNmsRound);
    boxes = space.take<math::Box<C>>(n);
    classes = space.take<int64_t>(with_classes ? n : 0);
    removed = space.take<uint8_t>(n);
    mask = space.take<MaskWord>(round * ceil_div(round, kMaskBits));
    round_kept = space.take<int32_t>(round);
    round_count = space.take<int32_t>(1);
    bytes = space.bytes();
  }
};

RETINANET_FAST_INLINE size_t nms_cuda_workspace_bytes(int64_t n, bool classes, DType dtype) {
  return dtype == DType::kFloat64 ? NmsCudaWorkspace<double>(nullptr, n, classes).bytes
                                  : NmsCudaWorkspace<float>(nullptr, n, classes).bytes;
}

Status nms_cuda(const NmsParams& params, CudaStream stream);

}  // namespace retinanet_fast
