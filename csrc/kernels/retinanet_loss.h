// RetinaNet's two losses and their gradients, from the head's level outputs where they lie and the anchors' matches.
//
//   classification = 1/B sum_b 1/max(1, F_b) sum of focal(logit) over all but the ignored anchors of image b
//   box            = 1/B sum_b 1/max(1, F_b) sum of box_loss(deltas) over its F_b foreground anchors
#pragma once

#include "kernels/anchors.h"
#include "kernels/common.h"
#include "kernels/match_anchors.h"

namespace retinanet_fast {

enum class BoxLoss : int8_t { kL1, kSmoothL1, kGiou };

// Where the gradients of one level's outputs go.
struct HeadGradients {
  void* logits;  // [B, K * C, H, W], or null
  void* deltas;  // [B, K * 4, H, W] filled with zeros, or null
  LevelStrides logits_strides;
  LevelStrides deltas_strides;
};

struct RetinanetLossParams {
  HeadLevels head;  // logits and deltas of one dtype, or of two narrower than float64
  HeadGradients gradients[kMaxLevels];
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

  const void* grad_classification;  // [1], of the losses' dtype: multiplies the gradients; null for 1
  const void* grad_box;             // [1]
  void* classification;             // [1] float64 for float64, else float32
  void* box;                        // [1]
  double* partial_sums;             // workspace: [2 * retinanet_loss_tasks()], on CUDA [retinanet_loss_blocks()]
  int64_t* bad_label;               // CUDA: bad_label_code() of a label outside [0, C) is written here
};

// Whether a level's logits are read as rows of channels, where these lie side by side; else as planes.
RETINANET_FAST_INLINE bool walks_channel_rows(const RetinanetLossParams& p, int64_t level) {
  const HeadLevels& head = p.head;
  return has_channel_rows(head, level, head.levels[level].logits_strides) &&
         (!p.gradients[level].logits || has_channel_rows(head, level, p.gradients[level].logits_strides));
}

// The most positions and elements of one CPU task, about. A level of one image is cut into tasks by its size and layout
// alone.
constexpr int64_t kLossPlanePositions = 4096;
constexpr int64_t kLossPlaneElements = 524288;
constexpr int64_t kLossRowElements = 65536;

RETINANET_FAST_INLINE int64_t loss_cells_per_task(int64_t channels) {
  return channels < kLossRowElements ? kLossRowElements / channels : 1;
}

// How planes are cut into tasks: along positions and, within one anchor shape, along classes.
struct PlaneTasks {
  int64_t position_tasks, classes_per_task, class_tasks;

  RETINANET_FAST_INLINE PlaneTasks(const HeadLevels& head, const HeadLevel& level) {
    const int64_t positions = level.height * level.width;
    position_tasks = ceil_div(positions, kLossPlanePositions);
    const int64_t positions_per_task = positions < kLossPlanePositions ? positions : kLossPlanePositions;
    class_tasks = ceil_div(head.num_classes * positions_per_task, kLossPlaneElements);
    classes_per_task = ceil_div(head.num_classes, class_tasks > 0 ? class_tasks : 1);
  }

  RETINANET_FAST_INLINE int64_t count(int64_t anchors_per_cell) const {
    return anchors_per_cell * position_tasks * class_tasks;
  }
};

RETINANET_FAST_INLINE int64_t loss_tasks_per_image(const RetinanetLossParams& p, int64_t level) {
  const HeadLevel& at = p.head.levels[level];
  return walks_channel_rows(p, level) ? ceil_div(at.height * at.width, loss_cells_per_task(p.head.channels()))
                                      : PlaneTasks(p.head, at).count(p.head.anchors_per_cell);
}

RETINANET_FAST_INLINE int64_t retinanet_loss_tasks(const RetinanetLossParams& p) {
  int64_t tasks = 0;
  for (int64_t l = 0; l < p.head.num_levels; ++l) tasks += p.head.batch_size * loss_tasks_per_image(p, l);
  return tasks;
}

// The same for CUDA's blocks; the box loss has blocks of its own. A level's first vector begins at the 16-byte boundary
// at or before its first element, which is why `vector - 1` is added.
constexpr int kLossThreads = 256;
constexpr int kLossRowVectors = 8;  // 16-byte vectors per thread, of a channels-last level
constexpr int kBoxAnchors = 8;      // anchors per thread

RETINANET_FAST_INLINE int64_t loss_blocks_per_image(const RetinanetLossParams& p, int64_t level) {
  const int64_t vector = int64_t(16 / size_of(p.head.logits_dtype));
  const int64_t cells = p.head.levels[level].height * p.head.levels[level].width;
  return walks_channel_rows(p, level)
             ? ceil_div(cells * p.head.channels() + vector - 1, kLossThreads * kLossRowVectors * vector)
             : p.head.anchors_per_cell * ceil_div(cells + vector - 1, 32 * vector);
}

RETINANET_FAST_INLINE int64_t box_loss_blocks_per_image(const RetinanetLossParams& p) {
  return ceil_div(p.anchors.num_anchors, kLossThreads * kBoxAnchors);
}

RETINANET_FAST_INLINE int64_t retinanet_loss_blocks(const RetinanetLossParams& p) {
  int64_t blocks = p.head.batch_size * box_loss_blocks_per_image(p);
  for (int64_t l = 0; l < p.head.num_levels; ++l) blocks += p.head.batch_size * loss_blocks_per_image(p, l);
  return blocks;
}

Status retinanet_loss_cuda(const RetinanetLossParams& params, CudaStream stream);

}  // namespace retinanet_fast
