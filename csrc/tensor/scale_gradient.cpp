#include "kernels/scale_gradient.h"

#include "tensor/checks.h"
#include "tensor/op.h"

namespace retinanet_fast {

at::Tensor scale_gradient(at::Tensor gradient, const at::Tensor& scale) {
  if (gradient.numel() == 0) return gradient;
  // As wide as it is computed: a loss in float32 may have gradients in bfloat16.
  const at::Tensor factor = scale.to(gradient.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  const ScaleGradientParams params{
      .gradient = gradient.mutable_data_ptr(),
      .scale = factor.const_data_ptr(),
      .n = gradient.numel(),
      .dtype = dtype_of("scale_gradient", "gradient", gradient),
  };
  launch("scale_gradient", gradient, params, &CpuKernels::scale_gradient,
         RETINANET_FAST_CUDA_LAUNCHER(scale_gradient_cuda));
  return gradient;
}

}  // namespace retinanet_fast
