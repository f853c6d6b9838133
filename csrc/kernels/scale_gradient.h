// gradient *= scale[0] in place, without touching it when the scale is 1: what a backward pass does with a gradient
// that was made together with the loss.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

struct ScaleGradientParams {
  void* gradient;     // [n]
  const void* scale;  // [1] float64 for float64, else float32, on the same device
  int64_t n;
  DType dtype;
};

Status scale_gradient_cuda(const ScaleGradientParams& params, CudaStream stream);

}  // namespace retinanet_fast
