// The deltas that turn anchors into boxes, row by row, and the gradients with respect to both.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

struct EncodeBoxesParams {
  const void* boxes;    // [N, 4] xyxy
  const void* anchors;  // [N, 4] xyxy
  void* deltas;         // [N, 4] dx, dy, dw, dh
  int64_t n;
  double weights[4];
  DType dtype;
};

struct EncodeBoxesBackwardParams {
  const void* grad_deltas;  // [N, 4]
  const void* boxes;        // [N, 4]
  const void* anchors;      // [N, 4]
  void* grad_boxes;         // [N, 4]
  void* grad_anchors;       // [N, 4]
  int64_t n;
  double weights[4];
  DType dtype;
};

Status encode_boxes_cuda(const EncodeBoxesParams& params, CudaStream stream);
Status encode_boxes_backward_cuda(const EncodeBoxesBackwardParams& params, CudaStream stream);

}  // namespace retinanet_fast
