// Makes the storage of every CPU tensor a buffer of the emulator, to the byte what kernels may touch.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "emulator.h"

namespace {

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
