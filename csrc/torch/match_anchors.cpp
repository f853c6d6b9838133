#include "kernels/match_anchors.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "torch/anchors.h"
#include "torch/common.h"
#include "torch/deferred_error.h"

namespace retinanet_fast {
namespace {

at::Tensor match_anchors(const at::Tensor& anchors, at::IntArrayRef strides, at::IntArrayRef grid_sizes,
                         at::TensorList gt_boxes, double high_threshold, double low_threshold,
                         bool allow_low_quality_matches, bool match_zero_iou) {
  constexpr const char* op = "match_anchors";
  TORCH_CHECK_VALUE(low_threshold <= high_threshold, op, ": expected low_threshold <= high_threshold, got ",
                    low_threshold, " > ", high_threshold);
  at::Tensor owner;
  const Anchors grid = anchors_of(op, anchors, strides, grid_sizes, anchors.device(), owner);
  const GroundTruth truth = ground_truth_of(op, gt_boxes, anchors.device(), owner.scalar_type());
  const auto images = int64_t(gt_boxes.size());
  at::Tensor matches = at::empty({images, grid.num_anchors}, anchors.options().dtype(at::kLong));
  at::Tensor best_iou = at::empty({truth.boxes.size(0)}, truth.boxes.options());
  const MatchAnchorsParams params{
      .anchors = grid,
      .gt_boxes = truth.boxes.const_data_ptr(),
      .gt_offsets = truth.offsets.data(),
      .batch_size = images,
      .rule = {high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou},
      .best_iou = best_iou.mutable_data_ptr(),
      .matches = matches.mutable_data_ptr(),
      .num_foreground = nullptr,
      .bad_box = deferred_error(op, anchors),
      .dtype = dtype_of(op, "gt_boxes", truth.boxes),
      .wide_matches = true,
  };
  run(op, anchors, params, &CpuKernels::match_anchors, RETINANET_FAST_CUDA(match_anchors_cuda));
  raise_deferred_error_of_emulator(op, anchors);
  return matches;
}

TORCH_LIBRARY_IMPL(retinanet_fast, CPU, m) { m.impl("match_anchors", match_anchors); }
TORCH_LIBRARY_IMPL(retinanet_fast, CUDA, m) { m.impl("match_anchors", match_anchors); }

}  // namespace
}  // namespace retinanet_fast
