// Each anchor's ground-truth box: the one with the highest IoU, if thresholds allow, and the low-quality rule that
// gives every box its best anchors. No matrix of anchors by boxes is stored: each IoU is computed twice, with the same
// bits.
#pragma once

#include "kernels/anchors.h"
#include "kernels/common.h"

namespace retinanet_fast {

constexpr int kMatchBackground = -1;
constexpr int kMatchIgnored = -2;

struct MatchRule {
  double high_threshold;
  double low_threshold;
  bool allow_low_quality_matches;  // an anchor that has some box's best IoU is matched (to its own best box) at any IoU
  bool match_zero_iou;             // also where a box's best IoU is 0
};

struct MatchAnchorsParams {
  Anchors anchors;
  const void* gt_boxes;       // [G, 4] xyxy of `dtype`, one image's boxes after the other's
  const int64_t* gt_offsets;  // [B + 1] on the host: image b has rows [gt_offsets[b], gt_offsets[b + 1])
  const int64_t* gt_counts;   // [B] on the kernel's device: so many of an image's rows are boxes; null: all of them
  int64_t batch_size;         // B
  MatchRule rule;
  int64_t num_boxes;        // G
  void* best_iou;           // [2, G] of `dtype`, workspace
  void* matches;            // [B, A] int32 rows of gt_boxes; with wide_matches int64 rows among the image's own boxes
  int32_t* num_foreground;  // [B] anchors with a box, or null
  int64_t* bad_box;         // CUDA: host memory to which a bad_box_code() is written, or null
  DType dtype;              // float64 or float32
  bool wide_matches;
};

// A box of `image` that has no area (or a NaN or infinite corner), or a number of boxes that is none, as one positive
// number.
constexpr int64_t kBadCountRow = 0xfffffffe;
RETINANET_FAST_INLINE int64_t bad_box_code(int64_t image, int64_t row) { return (image << 32 | row) + 1; }
RETINANET_FAST_INLINE int64_t bad_box_image(int64_t code) { return (code - 1) >> 32; }
RETINANET_FAST_INLINE int64_t bad_box_row(int64_t code) { return (code - 1) & 0xffffffff; }

template <class C>
RETINANET_FAST_INLINE bool has_area(const math::Box<C>& box) {
  const C infinity = std::numeric_limits<C>::infinity();
  return box.x2 > box.x1 && box.y2 > box.y1 && box.x1 > -infinity && box.y1 > -infinity && box.x2 < infinity &&
         box.y2 < infinity;
}

// An anchor's match, given its best IoU and box; `restored` says that it has some box's best IoU.
template <class C>
RETINANET_FAST_INLINE int32_t match_of(C best, int32_t box, bool restored, C high, C low) {
  const int32_t no_box = best >= low ? kMatchIgnored : kMatchBackground;
  return (restored | (best >= high)) ? box : no_box;
}

Status match_anchors_cuda(const MatchAnchorsParams& params, CudaStream stream);

}  // namespace retinanet_fast
