// The argument checks that encode_boxes and decode_boxes share.
#pragma once

#include "torch/common.h"

namespace retinanet_fast {

// `rows` (boxes or deltas) and `anchors` are both [N, 4] on one device, and there are four weights, none of them 0.
// Returns the dtype of the result: the wider one of the two.
inline at::ScalarType check_box_coding(const char* op, const char* argument, const at::Tensor& rows,
                                       const at::Tensor& anchors, at::ArrayRef<double> weights) {
  check_boxes(op, argument, rows);
  check_boxes(op, "anchors", anchors);
  check_same_device(op, "anchors", anchors, rows);
  TORCH_CHECK_VALUE(rows.size(0) == anchors.size(0), op, ": expected as many anchors as ", argument, ", got ", argument,
                    " ", rows.sizes(), " and anchors ", anchors.sizes());
  TORCH_CHECK_VALUE(weights.size() == 4, op, ": expected 4 weights (x, y, width, height), got ", weights.size());
  for (const double weight : weights) {
    TORCH_CHECK_VALUE(weight != 0, op, ": expected weights other than 0, got ", weights);
  }
  return c10::promoteTypes(rows.scalar_type(), anchors.scalar_type());
}

// `grad` has the shape of `like` and lies on its device.
inline void check_gradient(const char* op, const char* argument, const at::Tensor& grad, const at::Tensor& like) {
  check_same_device(op, argument, grad, like);
  TORCH_CHECK_VALUE(grad.sizes() == like.sizes(), op, ": expected ", argument, " ", like.sizes(), ", got ",
                    grad.sizes());
}

}  // namespace retinanet_fast
