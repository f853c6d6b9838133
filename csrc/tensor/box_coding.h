// What the ops that encode and decode boxes share.
#pragma once

#include <cmath>

#include "tensor/checks.h"

namespace retinanet_fast {

// torchvision's and detectron2's upper bound of dw and dh.
inline const double kMaxLogScale = std::log(1000.0 / 16.0);

// Checks that `rows` (boxes or deltas) and `anchors` are both [N, 4] on one device, and returns the dtype of the
// result: the wider of the two.
inline at::ScalarType check_box_coding(const char* op, const char* argument, const at::Tensor& rows,
                                       const at::Tensor& anchors, at::ArrayRef<double> weights) {
  check_boxes(op, argument, rows);
  check_boxes(op, "anchors", anchors);
  check_same_device(op, "anchors", anchors, rows);
  TORCH_CHECK_VALUE(rows.size(0) == anchors.size(0), op, ": expected as many anchors as ", argument, ", got ", argument,
                    " ", rows.sizes(), " and anchors ", anchors.sizes());
  check_box_weights(op, "weights", weights);
  return c10::promoteTypes(rows.scalar_type(), anchors.scalar_type());
}

}  // namespace retinanet_fast
