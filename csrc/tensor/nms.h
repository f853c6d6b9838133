// The call that nms and batched_nms share.
#pragma once

#include <ATen/core/Tensor.h>

namespace retinanet_fast {

// Checks the arguments for `op` and returns the indices of the kept boxes.
at::Tensor suppress(const char* op,
                    const at::Tensor& boxes,    // [N, 4]
                    const at::Tensor& scores,   // [N]
                    const at::Tensor& classes,  // [N] int64, contiguous, or undefined: all are one class
                    double iou_threshold);

}  // namespace retinanet_fast
