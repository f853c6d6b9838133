// Takes the place of csrc/tensor/device.cpp: ops on CPU tensors run the emulated CUDA kernels or, where a test asks for
// them, the CPU kernels, one task after the other.
#include "tensor/device.h"

namespace {

bool use_cpu_kernels = false;

void run_in_order(int64_t tasks, void (*task)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < tasks; ++i) task(context, i);
}

}  // namespace

namespace retinanet_fast {

bool uses_cpu_kernels(const char*, const at::Tensor&) { return use_cpu_kernels; }

const Executor& torch_executor() {
  static constexpr Executor executor{run_in_order};
  return executor;
}

CudaStream current_stream(const at::Device&) { return nullptr; }

bool runs_synchronously(const at::Device&) { return true; }

bool is_capturing(const at::Device&) { return false; }

void synchronize(const at::Device&) {}

const char* cuda_error_text(int64_t) { return "the emulator refused a launch"; }

}  // namespace retinanet_fast

// Called by plugin.py.
extern "C" __attribute__((visibility("default"))) void emulator_use_cpu_kernels(bool use) { use_cpu_kernels = use; }
