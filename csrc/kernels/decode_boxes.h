// The boxes that deltas make of anchors, row by row, optionally clipped to an image, and the gradients with respect to
// both.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

struct DecodeBoxesParams {
  const void* deltas;   // [N, 4] dx, dy, dw, dh
  const void* anchors;  // [N, 4] xyxy
  void* boxes;          // [N, 4] xyxy
  int64_t n;
  double weights[4] = {};
  double max_log_scale = 0;
  bool clip = false;  // to [0, width] x [0, height]
  double height = 0;
  double width = 0;
  DType dtype = DType::kFloat32;
};

struct DecodeBoxesBackwardParams {
  const void* grad_boxes;  // [N, 4]
  const void* deltas;      // [N, 4]
  const void* anchors;     // [N, 4]
  void* grad_deltas;       // [N, 4]
  void* grad_anchors;      // [N, 4]
  int64_t n;
  double weights[4] = {};
  double max_log_scale = 0;
  bool clip = false;
  double height = 0;
  double width = 0;
  DType dtype = DType::kFloat32;
};

Status decode_boxes_cuda(const DecodeBoxesParams& params, CudaStream stream);
Status decode_boxes_backward_cuda(const DecodeBoxesBackwardParams& params, CudaStream stream);

}  // namespace retinanet_fast
