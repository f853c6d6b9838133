// gradient *= scale[0] in place; a gradient whose scale is 1 is not touched. This is the backward pass of gradients
// that were made together with the losses.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

constexpr int kMaxScaledGradients = 16;

struct ScaleGradientParams {
  struct Gradient {
    void* values;       // [n]
    const void* scale;  // [1] float64 for float64, else float32, on the same device
    int64_t n;
  };
  Gradient gradients[kMaxScaledGradients];
  int32_t num_gradients;
  DType dtype;  // of the values
};

Status scale_gradient_cuda(const ScaleGradientParams& params, CudaStream stream);

}  // namespace retinanet_fast
