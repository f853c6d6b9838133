#include "torch/anchors.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "torch/common.h"

namespace retinanet_fast {
namespace {

constexpr int64_t kMostPixels = int64_t{1} << 24;  // a coordinate beyond it is no exact float

at::ScalarType kernel_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace

Anchors anchors_of(const char* op, const at::Tensor& anchors, at::IntArrayRef strides, at::IntArrayRef grid_sizes,
                   const at::Device& device, at::Tensor& owner) {
  TORCH_CHECK_VALUE(anchors.device() == device, op, ": expected anchors on ", device, ", got ", anchors.device());
  dtype_of(op, "anchors", anchors);
  Anchors result{};
  if (anchors.dim() == 2) {
    check_boxes(op, "anchors", anchors);
    owner = anchors.to(kernel_dtype(anchors.scalar_type())).contiguous();
    result.boxes = owner.const_data_ptr();
    result.boxes_dtype = dtype_of(op, "anchors", owner);
    result.num_anchors = owner.size(0);
    return result;
  }
  TORCH_CHECK_VALUE(anchors.dim() == 3 && anchors.size(2) == 4, op,
                    ": expected anchors [A, 4] or an AnchorGrid with base_anchors [L, K, 4], got ", anchors.sizes());
  const int64_t levels = anchors.size(0);
  TORCH_CHECK_VALUE(levels <= kMaxLevels, op, ": expected an AnchorGrid of at most ", kMaxLevels, " levels, got ",
                    levels);
  TORCH_CHECK_VALUE(int64_t(strides.size()) == 2 * levels && int64_t(grid_sizes.size()) == 2 * levels, op,
                    ": expected an AnchorGrid with a stride and a grid size for each of its ", levels, " levels, got ",
                    strides.size() / 2, " and ", grid_sizes.size() / 2);
  owner = anchors.to(at::kFloat).contiguous();
  result.base_anchors = owner.const_data_ptr<float>();
  result.num_levels = int32_t(levels);
  result.anchors_per_cell = int32_t(owner.size(1));
  for (int64_t l = 0; l < levels; ++l) {
    for (int64_t i = 2 * l; i < 2 * l + 2; ++i) {
      TORCH_CHECK_VALUE(strides[i] >= 1 && strides[i] <= kMostPixels, op, ": expected AnchorGrid strides in [1, ",
                        kMostPixels, "] pixels, got ", strides[i], " at level ", l);
      TORCH_CHECK_VALUE(grid_sizes[i] >= 0 && grid_sizes[i] <= kMostPixels, op,
                        ": expected AnchorGrid grid_sizes in [0, ", kMostPixels, "], got ", grid_sizes[i], " at level ",
                        l);
    }
    result.levels[l] = {
        .first_anchor = result.num_anchors,
        .height = int32_t(grid_sizes[2 * l]),
        .width = int32_t(grid_sizes[2 * l + 1]),
        .stride_y = int32_t(strides[2 * l]),
        .stride_x = int32_t(strides[2 * l + 1]),
    };
    result.num_anchors += owner.size(1) * grid_sizes[2 * l] * grid_sizes[2 * l + 1];
  }
  return result;
}

GroundTruth ground_truth_of(const char* op, at::TensorList gt_boxes, const at::Device& device,
                            at::ScalarType at_least) {
  GroundTruth result;
  result.offsets.push_back(0);
  at::ScalarType dtype = at_least;
  for (size_t image = 0; image < gt_boxes.size(); ++image) {
    const at::Tensor& boxes = gt_boxes[image];
    TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected gt_boxes[", image, "] [G, 4], got ",
                      boxes.sizes());
    TORCH_CHECK_VALUE(boxes.device() == device, op, ": expected gt_boxes[", image, "] on ", device, ", got ",
                      boxes.device());
    dtype = c10::promoteTypes(dtype, dtype_of(op, "gt_boxes", boxes) == DType::kFloat64 ? at::kDouble : at::kFloat);
    result.offsets.push_back(result.offsets.back() + boxes.size(0));
  }
  const auto options = at::TensorOptions(device).dtype(kernel_dtype(dtype));
  if (gt_boxes.empty()) {
    result.boxes = at::empty({0, 4}, options);
  } else {
    result.boxes = (gt_boxes.size() == 1 ? gt_boxes[0] : at::cat(gt_boxes)).to(options.dtype()).contiguous();
  }
  return result;
}

}  // namespace retinanet_fast
