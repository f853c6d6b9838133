#include "kernels/match_anchors.h"

#include <ATen/ops/empty.h>

#include "tensor/checks.h"
#include "tensor/deferred_error.h"
#include "tensor/head_levels.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "match_anchors";

at::Tensor match_anchors(const at::Tensor& anchors,                   // [A, 4], or a grid's base anchors [L, K, 4]
                         c10::SymIntArrayRef strides,                 // [2 L], or empty
                         c10::SymIntArrayRef grid_sizes,              // [2 L], or empty
                         at::TensorList gt_boxes,                     // B of [G, 4], or one of [B, G, 4]
                         const std::optional<at::Tensor>& gt_counts,  // [B]
                         double high_threshold, double low_threshold, bool allow_low_quality_matches,
                         bool match_zero_iou) {
  check_thresholds(kOp, high_threshold, low_threshold);
  const AnchorsOf held =
      anchors_of(kOp, anchors, C10_AS_INTARRAYREF_SLOW(strides), C10_AS_INTARRAYREF_SLOW(grid_sizes), anchors);
  const GroundTruth truth = ground_truth_of(kOp, gt_boxes, gt_counts, held.memory);
  at::Tensor matches = at::empty({truth.batch_size(), held.anchors.num_anchors}, anchors.options().dtype(at::kLong));
  at::Tensor best_iou = at::empty({2, truth.boxes.size(0)}, truth.boxes.options());
  const DeferredError error(kOp, anchors);
  const MatchAnchorsParams params{
      .anchors = held.anchors,
      .gt_boxes = truth.boxes.const_data_ptr(),
      .gt_offsets = truth.offsets.data(),
      .gt_counts = truth.counts_or_null(),
      .batch_size = truth.batch_size(),
      .rule = {high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou},
      .num_boxes = truth.boxes.size(0),
      .best_iou = best_iou.mutable_data_ptr(),
      .matches = matches.mutable_data_ptr(),
      .num_foreground = nullptr,
      .bad_box = error.word(),
      .dtype = dtype_of(kOp, "gt_boxes", truth.boxes),
      .wide_matches = true,
  };
  launch(kOp, anchors, params, &CpuKernels::match_anchors, RETINANET_FAST_CUDA_LAUNCHER(match_anchors_cuda));
  error.raise_if_known();
  return matches;
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // The index of each anchor's box per image, -1 for background, -2 for ignored: anchors [A, 4] and B of [G, 4] ->
  // [B, A]. Instead of [A, 4] anchors may be a grid's base anchors [L, K, 4], with the levels' strides and grid_sizes;
  // instead of B boxes may be one padded [B, G, 4], with gt_counts [B].
  define_op<match_anchors>(
      m,
      "match_anchors(Tensor anchors, SymInt[] strides, SymInt[] grid_sizes, Tensor[] gt_boxes, Tensor? gt_counts, "
      "float high_threshold, float low_threshold, bool allow_low_quality_matches, bool match_zero_iou) -> Tensor");
}

}  // namespace
}  // namespace retinanet_fast
