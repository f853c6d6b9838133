#include "kernels/scale_gradient.h"

#include "kernels/cpu/kernels.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

Status scale_gradient(const ScaleGradientParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kTask = 16384;
    for (int32_t g = 0; g < p.num_gradients; ++g) {
      const ScaleGradientParams::Gradient& gradient = p.gradients[g];
      const auto scale = *static_cast<const ComputeType<T>*>(gradient.scale);
      if (scale == 1) continue;
      executor.parallel_for(ceil_div(gradient.n, kTask), [&](int64_t task) {
        const int64_t end = min2(gradient.n, (task + 1) * kTask);
        T* values = static_cast<T*>(gradient.values);
        for (int64_t i = task * kTask; i < end; ++i) store(values[i], load(values[i]) * scale);
      });
    }
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
