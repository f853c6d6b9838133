// The levels of a detection head's output, which kernels read where they lie: shared by matching, loss and detection.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

constexpr int kMaxLevels = 8;

// The strides of a level's output [B, channels, H, W], in elements.
struct LevelStrides {
  int64_t image, channel, y, x;
};

// Channel k * C + c of `logits` is class c of anchor k of a cell, channel k * 4 + j of `deltas` its delta j.
struct HeadLevel {
  const void* logits;  // [B, K * C, H, W]
  const void* deltas;  // [B, K * 4, H, W]
  LevelStrides logits_strides;
  LevelStrides deltas_strides;
  int64_t first_anchor;  // index of the level's first anchor
  int64_t height;        // H, in cells
  int64_t width;         // W
};

struct HeadLevels {
  HeadLevel levels[kMaxLevels];
  int64_t num_levels;        // L
  int64_t batch_size;        // B
  int64_t anchors_per_cell;  // K
  int64_t num_classes;       // C
  DType logits_dtype;
  DType deltas_dtype;

  RETINANET_FAST_INLINE int64_t channels() const { return anchors_per_cell * num_classes; }
};

// Whether the channels of a cell of `level` lie side by side (channels last), for logits at these strides.
RETINANET_FAST_INLINE bool has_channel_rows(const HeadLevels& head, int64_t level, const LevelStrides& strides) {
  return head.channels() > 1 && strides.channel == 1 && (strides.x != 1 || head.levels[level].width == 1);
}

}  // namespace retinanet_fast
