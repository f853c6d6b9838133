// The call that nms and batched_nms share.
#pragma once

#include <ATen/core/Tensor.h>

namespace retinanet_fast {

// Checks the arguments for `op` and returns the indices of the kept boxes; `classes` is int64, or null.
at::Tensor run_nms(const char* op, const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor* classes,
                   double iou_threshold);

}  // namespace retinanet_fast
