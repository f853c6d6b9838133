// What suppression's kernels on CUDA leave for each other.
#pragma once

#include "kernels/nms.h"
#include "kernels/workspace.h"
#include "math/box.h"

namespace retinanet_fast {

// A rank is compared with the kept boxes of earlier rounds, which lie in a grid, and with the ranks before it in its
// own round; those hits go into a bit mask of one round, so that memory grows linearly with N.
constexpr int64_t kMaskBits = 64;
static_assert(kNmsRound == kMaskBits * kMaskBits);  // a word has one bit per group of 64 ranks
using MaskWord = unsigned long long;                // the type that CUDA's atomics take

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

}  // namespace retinanet_fast
