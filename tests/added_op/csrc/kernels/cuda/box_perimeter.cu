// A thread per box: perimeter = 2 ((x2 - x1) + (y2 - y1)). Reads four numbers and writes one, each once. No thread
// looks at another's: the same bits on every run.
#include "kernels/box_perimeter.h"

#include "kernels/cuda/launch.cuh"
#include "math/box_perimeter.h"

namespace retinanet_fast {
inline namespace box_perimeter_cu {

using namespace math;

constexpr int kThreads = 256;

template <class T>
__global__ void box_perimeter_kernel(BoxPerimeterParams p) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.n) return;
  store(static_cast<T*>(p.perimeters)[i], perimeter(load_box(static_cast<const T*>(p.boxes) + 4 * i)));
}

}  // namespace box_perimeter_cu

Status box_perimeter_cuda(const BoxPerimeterParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(box_perimeter_kernel<T>, blocks_of(ceil_div(p.n, kThreads)), dim3(kThreads), 0, stream, p);
  });
}

}  // namespace retinanet_fast
