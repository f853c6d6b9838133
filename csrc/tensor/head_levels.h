// Checks the tensors of a head's levels, anchors and ground truth and makes the kernels' structs of them, for matching,
// loss and detection.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "kernels/anchors.h"
#include "kernels/head_levels.h"

namespace retinanet_fast {

LevelStrides strides_of(const at::Tensor& level);  // [B, channels, H, W]

// `cls_logits` are [B, K * C, H, W] and `bbox_regression` [B, K * 4, H, W], one of each per level.
HeadLevels head_levels_of(const char* op, at::TensorList cls_logits, at::TensorList bbox_regression);

// Anchors as kernels take them, and the tensor that holds their memory.
struct AnchorsOf {
  Anchors anchors;
  at::Tensor memory;
};

// `anchors` are [A, 4], and the lists are empty; or they are a grid's base anchors [L, K, 4], and the lists hold the
// (stride_y, stride_x) and (height, width) of each level, one pair after the other. They lie on the device of `like`.
AnchorsOf anchors_of(const char* op, const at::Tensor& anchors, at::IntArrayRef strides, at::IntArrayRef grid_sizes,
                     const at::Tensor& like);

// Raises unless every anchor belongs to a cell of `head`.
void check_anchors_of_head(const char* op, const Anchors& anchors, const HeadLevels& head);

// The images' tensors, of which there is at least one, one after the other: contiguous, of `dtype`.
at::Tensor concatenate(at::TensorList tensors, at::ScalarType dtype);

// The boxes of a batch, one image's after the other's.
struct GroundTruth {
  at::Tensor boxes;              // [G, 4] float64 or float32
  std::vector<int64_t> offsets;  // [B + 1]
  at::Tensor counts;             // [B] int64: how many of an image's rows are boxes; undefined: all

  int64_t batch_size() const { return int64_t(offsets.size()) - 1; }
  const int64_t* counts_or_null() const { return counts.defined() ? counts.const_data_ptr<int64_t>() : nullptr; }
};

// Whether `gt_boxes` is one tensor [B, G, 4] for all images.
bool is_padded(at::TensorList gt_boxes);

// `gt_boxes` are [G_i, 4] each, on the device of `anchors`; or one [B, G, 4], of which `gt_counts` [B] tell how many
// rows are boxes. They lie in the result in the widest of their dtypes and that of `anchors`, which is float64 or
// float32.
GroundTruth ground_truth_of(const char* op, at::TensorList gt_boxes, const std::optional<at::Tensor>& gt_counts,
                            const at::Tensor& anchors);

}  // namespace retinanet_fast
