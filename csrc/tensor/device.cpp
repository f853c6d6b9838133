#include "tensor/device.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#ifdef RETINANET_FAST_WITH_CUDA
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace retinanet_fast {
namespace {

// A thread that has finished a task takes the next one, since tasks differ in length.
void run_on_torch_threads(int64_t tasks, void (*task)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(tasks, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < tasks; i = next++) task(context, i);
  });
}

}  // namespace

bool uses_cpu_kernels(const char* op, const at::Tensor& tensor) {
  if (tensor.is_cpu()) return true;
  TORCH_CHECK(tensor.is_cuda(), op, ": expected a CPU or CUDA tensor, got one on ", tensor.device());
  return false;
}

const Executor& torch_executor() {
  static constexpr Executor executor{run_on_torch_threads};
  return executor;
}

bool runs_synchronously(const at::Device& device) { return device.is_cpu(); }

#ifdef RETINANET_FAST_WITH_CUDA

CudaStream current_stream(const at::Device& device) { return c10::cuda::getCurrentCUDAStream(device.index()).stream(); }

bool is_capturing(const at::Device& device) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (device.is_cuda()) {
    C10_CUDA_CHECK(cudaStreamIsCapturing(c10::cuda::getCurrentCUDAStream(device.index()).stream(), &status));
  }
  return status != cudaStreamCaptureStatusNone;
}

void synchronize(const at::Device& device) {
  const c10::OptionalDeviceGuard guard(device);
  if (device.is_cuda()) C10_CUDA_CHECK(cudaDeviceSynchronize());
}

const char* cuda_error_text(int64_t error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

#else

CudaStream current_stream(const at::Device&) { return nullptr; }

bool is_capturing(const at::Device&) { return false; }

void synchronize(const at::Device&) {}

const char* cuda_error_text(int64_t) { return "a build without CUDA"; }

#endif

}  // namespace retinanet_fast
