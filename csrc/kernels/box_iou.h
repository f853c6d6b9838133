// Pairwise intersection over union of two sets of boxes, and its gradient with respect to one of them.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

struct BoxIouParams {
  const void* boxes1;  // [N, 4] xyxy
  const void* boxes2;  // [M, 4] xyxy
  void* iou;           // [N, M]
  int64_t n;
  int64_t m;
  DType dtype;  // float64 or float32
};

// grad_boxes1[i] = sum over j, in a fixed order, of grad_iou[i, j] * d iou[i, j] / d boxes1[i]. The gradient with
// respect to boxes2 is the same launch with the boxes and the strides of grad_iou exchanged.
struct BoxIouBackwardParams {
  const void* boxes1;    // [N, 4]
  const void* boxes2;    // [M, 4]
  const void* grad_iou;  // element (i, j) at i * stride_n + j * stride_m
  void* grad_boxes1;     // [N, 4]
  int64_t n;
  int64_t m;
  int64_t stride_n;
  int64_t stride_m;
  DType dtype;  // float64 or float32
};

Status box_iou_cuda(const BoxIouParams& params, CudaStream stream);
Status box_iou_backward_cuda(const BoxIouBackwardParams& params, CudaStream stream);

}  // namespace retinanet_fast
