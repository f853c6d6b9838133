#include "kernels/scale_gradient.h"

#include "kernels/cpu/kernels.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

Status scale_gradient(const ScaleGradientParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kTask = 16384;
    const auto scale = *static_cast<const ComputeType<T>*>(p.scale);
    if (scale == 1) return Status{};
    executor.parallel_for(ceil_div(p.n, kTask), [&](int64_t task) {
      const int64_t end = min2(p.n, (task + 1) * kTask);
      T* gradient = static_cast<T*>(p.gradient);
      for (int64_t i = task * kTask; i < end; ++i) store(gradient[i], load(gradient[i]) * scale);
    });
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
