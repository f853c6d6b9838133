// Ties the emulator to torch: every CPU tensor becomes a buffer that kernels may touch, exactly as large as its
// storage, and ops on CPU tensors run the CUDA kernels unless a test asks for the CPU ones.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "emulator.h"
#include "torch/common.h"

namespace {

bool use_cpu_kernels = false;

class Buffers final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? emulator::allocate(bytes) : nullptr;
    return {data, data, &emulator::release, at::kCPU};
  }
  at::DeleterFnPtr raw_deleter() const override { return &emulator::release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Buffers buffers;
[[maybe_unused]] const bool registered = (c10::SetCPUAllocator(&buffers, /*priority=*/1), true);

}  // namespace

bool retinanet_fast::uses_cpu_kernels(const at::Tensor&) { return use_cpu_kernels; }

// Called by plugin.py.
extern "C" __attribute__((visibility("default"))) void emulator_use_cpu_kernels(bool use) { use_cpu_kernels = use; }
