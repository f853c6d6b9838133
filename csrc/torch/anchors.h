// Anchors and ground-truth boxes from tensors: what the ops that match, train and detect share.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/anchors.h"

namespace retinanet_fast {

// Either `anchors` is [A, 4] and the lists are empty, or it holds a grid's base anchors [L, K, 4], and the lists the
// levels' (stride_y, stride_x) and (height, width), one pair after the other. `owner` keeps the memory that the
// result points at; the anchors lie on `device`.
Anchors anchors_of(const char* op, const at::Tensor& anchors, at::IntArrayRef strides, at::IntArrayRef grid_sizes,
                   const at::Device& device, at::Tensor& owner);

// The boxes of a batch, one image's after the other's.
struct GroundTruth {
  at::Tensor boxes;              // [G, 4] float64 or float32
  std::vector<int64_t> offsets;  // [B + 1]
};

// `gt_boxes` are [G_i, 4] each, on `device`, concatenated in the widest of their dtypes and `at_least`.
GroundTruth ground_truth_of(const char* op, at::TensorList gt_boxes, const at::Device& device, at::ScalarType at_least);

}  // namespace retinanet_fast
