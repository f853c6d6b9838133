#include "kernels/scale_gradient.h"

#include "tensor/checks.h"
#include "tensor/op.h"

namespace retinanet_fast {

void scale_gradients(std::initializer_list<GradientsToScale> groups) {
  constexpr const char* op = "scale_gradient";
  ScaleGradientParams params{};
  at::Tensor any, factors[kMaxScaledGradients];
  for (const GradientsToScale& group : groups) {
    for (const at::Tensor& gradient : group.gradients) {
      if (!gradient.defined() || gradient.numel() == 0) continue;
      TORCH_INTERNAL_ASSERT(params.num_gradients < kMaxScaledGradients);
      any = gradient;
      params.dtype = dtype_of(op, "gradient", gradient);
      // In the computing type: a float32 loss may have bfloat16 gradients.
      at::Tensor& factor = factors[params.num_gradients];
      factor = group.scale.to(gradient.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
      params.gradients[params.num_gradients++] = {gradient.mutable_data_ptr(), factor.const_data_ptr(),
                                                  gradient.numel()};
    }
  }
  if (!any.defined()) return;
  launch(op, any, params, &CpuKernels::scale_gradient, RETINANET_FAST_CUDA_LAUNCHER(scale_gradient_cuda));
}

at::Tensor scale_gradient(at::Tensor gradient, const at::Tensor& scale) {
  scale_gradients({{gradient, scale}});
  return gradient;
}

}  // namespace retinanet_fast
