// The workspace of the CPU's suppression, and the kept boxes in it.
#pragma once

#include "kernels/workspace.h"
#include "math/box.h"
#include "math/ordering.h"

namespace retinanet_fast {

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

}  // namespace retinanet_fast
