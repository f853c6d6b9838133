// RetinaNet's two losses and their gradients, from the head's level outputs where they lie and the anchors' matches.
//
//   classification = 1/B sum_b 1/max(1, F_b) sum of focal(logit) over all but the between anchors of image b
//   bbox           = 1/B sum_b 1/max(1, F_b) sum of box_loss(deltas) over its F_b foreground anchors
#pragma once

#include "kernels/anchors.h"
#include "kernels/common.h"
#include "kernels/match_anchors.h"

namespace retinanet_fast {

enum class BoxLoss : int8_t { kL1, kSmoothL1, kGiou };

// Where element (image, channel, y, x) of a level's output lies, in elements.
struct LevelStrides {
  int64_t image, channel, y, x;
};

// One level of the head. Channel k * C + c of `logits` is class c of anchor k, channel k * 4 + j of `deltas` its delta
// j.
struct LossLevel {
  const void* logits;  // [B, K * C, H, W]
  const void* deltas;  // [B, K * 4, H, W]
  void* grad_logits;   // [B, K * C, H, W], or null
  void* grad_deltas;   // [B, K * 4, H, W] filled with zeros, or null
  LevelStrides logits_at;
  LevelStrides deltas_at;
  LevelStrides grad_logits_at;
  LevelStrides grad_deltas_at;
  int64_t first_anchor;  // of the level, in an image
  int64_t height;
  int64_t width;
};

struct RetinanetLossParams {
  LossLevel level[kMaxLevels];
  int32_t levels;
  int64_t images;    // B
  int64_t per_cell;  // K
  int64_t classes;   // C
  Anchors anchors;

  const int32_t* matches;         // [B, A] rows of gt_boxes, from match_anchors
  const int32_t* num_foreground;  // [B]
  const void* gt_boxes;           // [G, 4] of gt_dtype
  const int64_t* gt_labels;       // [G] in [0, C)
  DType gt_dtype;                 // float64 or float32

  double alpha;  // negative: no weighting
  double gamma;
  BoxLoss box_loss;
  double smooth_l1_beta;
  double box_weights[4];
  double max_log_scale;

  const void* grad_classification;  // [1], the gradients are multiplied by it, or null for 1; of the losses' dtype
  const void* grad_bbox;            // [1]
  void* classification;             // [1] float64 for float64, else float32
  void* bbox;                       // [1]
  double* partial_sums;             // [2 * retinanet_loss_tasks()], on CUDA [retinanet_loss_blocks()], workspace
  int64_t* bad_label;               // CUDA: bad_label_code() of a label outside [0, C) is written here
  DType dtype;                      // of logits and deltas
};

// A label as one number below 0.
RETINANET_FAST_INLINE int64_t bad_label_code(int64_t row, int64_t label) { return -(row << 32 | uint32_t(label)) - 1; }
RETINANET_FAST_INLINE int64_t bad_label_row(int64_t code) { return -(code + 1) >> 32; }
RETINANET_FAST_INLINE int64_t bad_label_value(int64_t code) { return int32_t(uint32_t(-(code + 1))); }

// How a level's logits are walked over: as rows of channels where these lie side by side, else as planes.
RETINANET_FAST_INLINE bool has_channel_rows(const LossLevel& level, int64_t channels) {
  const auto rows = [&](const LevelStrides& at) { return at.channel == 1 && (at.x != 1 || level.width == 1); };
  return channels > 1 && rows(level.logits_at) && (!level.grad_logits || rows(level.grad_logits_at));
}

// Pieces that a level of one image is cut into on the CPU, by its size and layout alone.
constexpr int64_t kLossPlanePositions = 4096;
constexpr int64_t kLossPlaneElements = 524288;
constexpr int64_t kLossRowElements = 65536;

RETINANET_FAST_INLINE int64_t loss_cells_per_task(int64_t channels) {
  return channels < kLossRowElements ? kLossRowElements / channels : 1;
}

// Planes are cut into pieces of positions, and the classes of an anchor shape into pieces of `classes`.
struct PlaneTasks {
  int64_t pieces, classes, class_pieces;

  RETINANET_FAST_INLINE PlaneTasks(const RetinanetLossParams& p, const LossLevel& level) {
    const int64_t positions = level.height * level.width;
    pieces = ceil_div(positions, kLossPlanePositions);
    const int64_t in_a_piece = positions < kLossPlanePositions ? positions : kLossPlanePositions;
    class_pieces = ceil_div(p.classes * in_a_piece, kLossPlaneElements);
    classes = ceil_div(p.classes, class_pieces > 0 ? class_pieces : 1);
  }

  RETINANET_FAST_INLINE int64_t count(int64_t per_cell) const { return per_cell * pieces * class_pieces; }
};

RETINANET_FAST_INLINE int64_t loss_tasks_per_image(const RetinanetLossParams& p, const LossLevel& level) {
  const int64_t channels = p.per_cell * p.classes;
  const int64_t cells = level.height * level.width;
  return has_channel_rows(level, channels) ? ceil_div(cells, loss_cells_per_task(channels))
                                           : PlaneTasks(p, level).count(p.per_cell);
}

RETINANET_FAST_INLINE int64_t retinanet_loss_tasks(const RetinanetLossParams& p) {
  int64_t tasks = 0;
  for (int l = 0; l < p.levels; ++l) tasks += p.images * loss_tasks_per_image(p, p.level[l]);
  return tasks;
}

// The same on CUDA, where a piece is a block of threads, and the box loss has blocks of its own.
constexpr int kLossThreads = 256;
constexpr int kLossRowVectors = 4;  // 16-byte vectors a thread takes of a channels-last level

RETINANET_FAST_INLINE int64_t loss_blocks_per_image(const RetinanetLossParams& p, const LossLevel& level) {
  const int64_t vector = int64_t(16 / size_of(p.dtype));
  const int64_t channels = p.per_cell * p.classes;
  const int64_t cells = level.height * level.width;
  return has_channel_rows(level, channels) ? ceil_div(cells * channels, kLossThreads * kLossRowVectors * vector)
                                           : p.per_cell * ceil_div(cells, 32 * vector);
}

RETINANET_FAST_INLINE int64_t box_loss_blocks_per_image(const RetinanetLossParams& p) {
  return ceil_div(p.anchors.count, kLossThreads);
}

RETINANET_FAST_INLINE int64_t retinanet_loss_blocks(const RetinanetLossParams& p) {
  int64_t blocks = p.images * box_loss_blocks_per_image(p);
  for (int l = 0; l < p.levels; ++l) blocks += p.images * loss_blocks_per_image(p, p.level[l]);
  return blocks;
}

Status retinanet_loss_cuda(const RetinanetLossParams& params, CudaStream stream);

}  // namespace retinanet_fast
