// The one place where a grid is launched, so that the same kernels also run under a host-side emulator.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common.h"

namespace retinanet_fast {

// Launches kernel(args...) and reports a refused launch. Empty grids are a success: CUDA refuses them.
template <class... KernelArgs, class... Args>
Status launch(void (*kernel)(KernelArgs...), dim3 grid, dim3 block, size_t shared_bytes, CudaStream stream,
              const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return {};
  return {Status::Code::kCuda, -1, static_cast<int64_t>(error)};
}

}  // namespace retinanet_fast
