// scale_gradient: gradient[i] *= scale[0], for several gradients in one launch.
//
// At most kMostBlocks blocks go over one gradient after the other, 16 bytes per thread and step. A gradient whose scale
// is 1 is skipped after one load: the host need not know the scale, and few blocks make a launch with nothing to do
// short. Moves 2 n elements otherwise. Deterministic: no sums.
#include "kernels/scale_gradient.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

namespace retinanet_fast {
inline namespace scale_gradient_cu {

using namespace math;

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1024;  // what the largest GPUs run at once

template <class T>
__global__ void __launch_bounds__(kThreads) scale_gradient_kernel(ScaleGradientParams p) {
  using C = ComputeType<T>;
  for (int32_t g = 0; g < p.num_gradients; ++g) {
    const C scale = *static_cast<const C*>(p.gradients[g].scale);
    if (scale == C(1)) continue;
    T* values = static_cast<T*>(p.gradients[g].values);
    const int64_t n = p.gradients[g].n;
    const bool aligned = is_aligned(values);
    const int64_t step = int64_t(gridDim.x) * kThreads * kVector<T>;
#pragma unroll 2
    for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kVector<T>; i < n; i += step) {
      C x[kVector<T>];
      load_vector(values, i, n, aligned, x);
      for (C& value : x) value *= scale;
      store_vector(values, i, n, aligned, x);
    }
  }
}

}  // namespace scale_gradient_cu

Status scale_gradient_cuda(const ScaleGradientParams& p, CudaStream stream) {
  int64_t longest = 0;
  for (int32_t g = 0; g < p.num_gradients; ++g) longest = max2(longest, p.gradients[g].n);
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t blocks = min2(kMostBlocks, ceil_div(longest, kThreads * kVector<T>));
    return launch(scale_gradient_kernel<T>, blocks_of(blocks), dim3(kThreads), 0, stream, p);
  });
}

}  // namespace retinanet_fast
