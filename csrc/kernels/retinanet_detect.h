// Detection from the head's own outputs: select the best candidates of each image and level, decode them, suppress
// class by class, and stop at a fixed number of detections per image.
#pragma once

#include "kernels/anchors.h"
#include "math/box_coding.h"
#include "math/score.h"

namespace retinanet_fast {

enum class SoftNms : int8_t { kNone, kLinear, kGaussian };

// A candidate's index is anchor * C + class over all levels, anchors ordered by level, y, x, k.
struct RetinanetDetectParams {
  HeadLevels head;
  Anchors anchors;
  const int64_t* image_sizes;  // [B, 2] height, width; on the host or on the device
  bool image_sizes_on_host;
  float score_thresh;         // used where class_thresh is null
  const float* class_thresh;  // [C], or null
  double nms_thresh;
  SoftNms soft_nms;
  double soft_nms_sigma;       // of the Gaussian
  int64_t topk_candidates;     // candidates per level and image
  int64_t detections_per_img;  // D
  double box_weights[4];
  double max_log_scale;
  float* boxes;     // [B, D, 4]
  float* scores;    // [B, D]
  int64_t* labels;  // [B, D]
  int64_t* counts;  // [B]
  void* workspace;  // null: the launcher writes the bytes that it needs to workspace_bytes, and returns
  size_t* workspace_bytes;
};

RETINANET_FAST_INLINE int64_t level_candidates(const RetinanetDetectParams& p, int64_t level) {
  return p.head.levels[level].height * p.head.levels[level].width * p.head.channels();
}

// The most candidates of one level of an image that are decoded, and of all its levels.
RETINANET_FAST_INLINE int64_t level_topk(const RetinanetDetectParams& p, int64_t level) {
  return math::min2(p.topk_candidates, level_candidates(p, level));
}

RETINANET_FAST_INLINE int64_t image_topk(const RetinanetDetectParams& p) {
  int64_t total = 0;
  for (int64_t level = 0; level < p.head.num_levels; ++level) total += level_topk(p, level);
  return total;
}

// A candidate's class and anchor, and where the anchor lies.
struct Candidate {
  int32_t level;
  int64_t label;
  int64_t k;
  int64_t y;
  int64_t x;
  int64_t anchor;  // over all levels
};

RETINANET_FAST_INLINE Candidate locate(const RetinanetDetectParams& p, uint32_t index) {
  Candidate c;
  c.anchor = index / uint32_t(p.head.num_classes);
  c.label = index - c.anchor * p.head.num_classes;
  c.level = 0;
  while (c.level + 1 < p.head.num_levels && c.anchor >= p.head.levels[c.level + 1].first_anchor) ++c.level;
  const HeadLevel& level = p.head.levels[c.level];
  const int64_t in_level = c.anchor - level.first_anchor;
  const int64_t cell = in_level / p.head.anchors_per_cell;
  c.k = in_level - cell * p.head.anchors_per_cell;
  c.y = cell / level.width;
  c.x = cell - c.y * level.width;
  return c;
}

RETINANET_FAST_INLINE math::Box<float> candidate_anchor(const RetinanetDetectParams& p, const Candidate& c) {
  if (p.anchors.boxes) return anchor_at<float>(p.anchors, c.anchor);
  const float* base_anchor = p.anchors.base_anchors + 4 * (c.level * p.anchors.anchors_per_cell + c.k);
  return grid_anchor(base_anchor, p.anchors.levels[c.level], c.y, c.x);
}

template <class T>
RETINANET_FAST_INLINE math::Deltas<double> load_candidate_deltas(const RetinanetDetectParams& p, int64_t image,
                                                                 const Candidate& c) {
  const HeadLevel& level = p.head.levels[c.level];
  const LevelStrides& strides = level.deltas_strides;
  const int64_t stride = strides.channel;
  const T* at = static_cast<const T*>(level.deltas) + image * strides.image + 4 * c.k * stride + c.y * strides.y +
                c.x * strides.x;
  return {float(math::load(at[0])), float(math::load(at[stride])), float(math::load(at[2 * stride])),
          float(math::load(at[3 * stride]))};
}

// The candidate's box, clipped to its image: from float32 values, computed in double and rounded once. exp is our own,
// so that the CPU and CUDA get the same bits; the eager twin's differs by less than 2^-50, which changes the rounding
// to float of one coordinate in some 10^7.
RETINANET_FAST_INLINE math::Box<float> decode_candidate(const RetinanetDetectParams& p, const Candidate& c,
                                                        const math::Deltas<double>& deltas, double height,
                                                        double width) {
  constexpr double kLowest = -690.0;  // below it, a box is a point to float's precision
  const math::Box<float> anchor = candidate_anchor(p, c);
  const math::Box<double> wide{anchor.x1, anchor.y1, anchor.x2, anchor.y2};
  const math::BoxWeights<double> weights(p.box_weights);
  const auto scale = [&](double log) { return math::exp_wide(math::max2(kLowest, math::min2(p.max_log_scale, log))); };
  const auto box =
      math::clip(math::decode_scaled(deltas, wide, weights, scale(deltas.dw / weights.w), scale(deltas.dh / weights.h)),
                 height, width);
  return {float(box.x1), float(box.y1), float(box.x2), float(box.y2)};
}

// The factor by which soft suppression multiplies a score; 1 for a NaN IoU.
RETINANET_FAST_INLINE float soft_nms_factor(const RetinanetDetectParams& p, float threshold, float iou) {
  if (p.soft_nms == SoftNms::kLinear) return iou > threshold ? 1.0f - iou : 1.0f;
  constexpr double kLowest = -690.0;  // exp of it is 0 in float
  return iou > 0.0f ? float(math::exp_wide(math::max2(kLowest, -double(iou) * double(iou) / p.soft_nms_sigma))) : 1.0f;
}

Status retinanet_detect_cuda(const RetinanetDetectParams& params, CudaStream stream);

}  // namespace retinanet_fast
