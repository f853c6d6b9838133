// The one place where a grid is launched, so that the same kernels also run in a host-side emulator.
#pragma once

#include <cuda_runtime.h>

#include "kernels/common.h"

namespace retinanet_fast {

// Launches kernel(args...) and reports a refused launch. An empty grid, which CUDA would refuse, is a success.
template <class... KernelArgs, class... Args>
Status launch(void (*kernel)(KernelArgs...), dim3 grid, dim3 block, size_t shared_bytes, CudaStream stream,
              const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return {};
#if defined(__CUDACC__)
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
#else
  static_cast<void>(stream);
  emulator::launch(kernel, grid, block, shared_bytes, args...);  // tests/emulator
#endif
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return {};
  return {Status::Code::kCuda, -1, static_cast<int64_t>(error)};
}

// A one-dimensional grid of n blocks; beyond the 2^31 - 1 that CUDA allows, a grid that the launch refuses.
inline dim3 blocks_of(int64_t n) { return dim3(unsigned(n <= 0x7fffffff ? n : 0xffffffff)); }

// The dynamic shared memory of a block.
template <class T>
__device__ T* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[];
  return reinterpret_cast<T*>(dynamic_shared_bytes);
#else
  return emulator::dynamic_shared<T>();
#endif
}

}  // namespace retinanet_fast
