#include "kernels/scale_gradient.h"

#include <algorithm>

#include "tensor/checks.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "scale_gradient";

void scale_gradients_of(DType dtype, std::initializer_list<GradientsToScale> groups) {
  ScaleGradientParams params{};
  params.dtype = dtype;
  at::Tensor any, factors[kMaxScaledGradients];
  for (const GradientsToScale& group : groups) {
    for (const at::Tensor& gradient : group.gradients) {
      if (gradient.numel() == 0 || dtype_of(kOp, "gradient", gradient) != dtype) continue;
      TORCH_INTERNAL_ASSERT(params.num_gradients < kMaxScaledGradients);
      any = gradient;
      // In the computing type: a float32 loss may have bfloat16 gradients.
      at::Tensor& factor = factors[params.num_gradients];
      factor = group.scale.to(gradient.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
      params.gradients[params.num_gradients++] = {gradient.mutable_data_ptr(), factor.const_data_ptr(),
                                                  gradient.numel()};
    }
  }
  if (!any.defined()) return;
  launch(kOp, any, params, &CpuKernels::scale_gradient, RETINANET_FAST_CUDA_LAUNCHER(scale_gradient_cuda));
}

}  // namespace

void scale_gradients(std::initializer_list<GradientsToScale> groups) {
  const bool traced = std::any_of(groups.begin(), groups.end(), [](const GradientsToScale& group) {
    return is_traced(group.gradients) || is_traced(group.scale);
  });
  if (traced) {
    for (const GradientsToScale& group : groups) {
      for (at::Tensor& gradient : group.gradients) gradient = gradient.mul(group.scale).to(gradient.scalar_type());
    }
    return;
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    scale_gradients_of(dtype, groups);
  }
}

}  // namespace retinanet_fast
