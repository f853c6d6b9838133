// scale_gradient: gradient[i] *= scale[0]. A thread per element, blocks in order; a scale of 1 ends every block after
// one load, so that the host need not know it. Otherwise moves 2 n elements. Deterministic: no sums.
#include "kernels/scale_gradient.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) scale_gradient_kernel(ScaleGradientParams p) {
  using C = ComputeType<T>;
  const C scale = *static_cast<const C*>(p.scale);
  if (scale == C(1)) return;
  T* gradient = static_cast<T*>(p.gradient);
  const bool aligned = is_aligned(gradient);
  const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kVector<T>;
  C values[kVector<T>];
  load_vector(gradient, i, p.n, aligned, values);
  for (C& value : values) value *= scale;
  store_vector(gradient, i, p.n, aligned, values);
}

}  // namespace

Status scale_gradient_cuda(const ScaleGradientParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 grid(ceil_div(p.n, kThreads * kVector<T>));
    return launch(scale_gradient_kernel<T>, grid, dim3(kThreads), 0, stream, p);
  });
}

}  // namespace retinanet_fast
