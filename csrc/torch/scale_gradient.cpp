// What the losses share: memory for their large results, and the scaling of a gradient that was made with the loss.
#include "kernels/scale_gradient.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/Allocator.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "torch/common.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace retinanet_fast {
namespace {

#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE)

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kLarge = 4 * kHugePage;  // smaller blocks are recycled by malloc itself

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
};

// CPU memory for large gradients and losses. malloc gives blocks of tens of megabytes back to the system at once, and
// touching them anew, page fault by page fault, takes longer than computing a focal loss. So a few freed blocks are
// kept for the next step, in huge pages, and all but one marked as free to the system, which takes them when it is
// short of memory.
class RecyclingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    Block block = take(bytes);
    if (block.memory == nullptr) {
      block.bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
      block.memory = std::aligned_alloc(kHugePage, block.bytes);
      TORCH_CHECK_WITH(OutOfMemoryError, block.memory != nullptr, "retinanet_fast: cannot allocate ", bytes, " bytes");
      madvise(block.memory, block.bytes, MADV_HUGEPAGE);  // advice: a refusal changes nothing
    }
    report(block, int64_t(block.bytes));
    return {block.memory, new Block(block), &RecyclingAllocator::release, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  // Never destroyed: tensors may outlive every other static object.
  static RecyclingAllocator& instance() {
    static auto* allocator = new RecyclingAllocator;
    return *allocator;
  }

 private:
  // To torch's memory profiler, as torch's own allocator does.
  static void report(const Block& block, int64_t bytes) {
    if (!c10::memoryProfilingEnabled()) return;
    c10::reportMemoryUsageToProfiler(block.memory, bytes, 0, 0, c10::Device(c10::kCPU));
  }

  // A kept block of at least `bytes`, and not much larger; the one given up last if it fits.
  Block take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < kept_.size(); ++i) {
      Block& kept = kept_[(last_ + kept_.size() - i) % kept_.size()];
      if (kept.bytes >= bytes && kept.bytes - bytes <= bytes / 8) return std::exchange(kept, {});
    }
    return {};
  }

  // The block given up last is likely to be asked for next: only those before it are marked as free, which takes time.
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    report(*block, -int64_t(block->bytes));
    RecyclingAllocator& self = instance();
    void* oldest = nullptr;
    {
      const std::lock_guard lock(self.mutex_);
      const Block& before = self.kept_[self.last_];
      if (before.memory != nullptr) {
        madvise(before.memory, before.bytes, MADV_FREE);
        self.last_ = (self.last_ + 1) % self.kept_.size();
      }
      oldest = std::exchange(self.kept_[self.last_], *block).memory;
    }
    std::free(oldest);
    delete block;
  }

  std::mutex mutex_;
  std::array<Block, 4> kept_;
  size_t last_ = 0;
};

at::Tensor empty_large_like(const at::Tensor& like) {
  // The layout that empty_like gives, without its memory.
  const at::Tensor layout = at::empty_like(like, like.options().device(at::kMeta));
  return at::detail::empty_strided_generic(layout.sizes(), layout.strides(), &RecyclingAllocator::instance(),
                                           c10::DispatchKeySet(c10::DispatchKey::CPU), like.scalar_type());
}

#endif

}  // namespace

at::Tensor empty_dense_like(const at::Tensor& like) {
#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE)
  if (uses_cpu_kernels(like) && like.nbytes() >= kLarge) return empty_large_like(like);
#endif
  return at::empty_like(like);
}

at::Tensor scale_gradient(at::Tensor gradient, const at::Tensor& scale) {
  if (gradient.numel() == 0) return gradient;
  // As wide as it is computed: a loss in float32 may have gradients in bfloat16.
  const at::Tensor factor = scale.to(gradient.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  const ScaleGradientParams params{
      .gradient = gradient.mutable_data_ptr(),
      .scale = factor.const_data_ptr(),
      .n = gradient.numel(),
      .dtype = dtype_of("scale_gradient", "gradient", gradient),
  };
  run("scale_gradient", gradient, params, &CpuKernels::scale_gradient, RETINANET_FAST_CUDA(scale_gradient_cuda));
  return gradient;
}

}  // namespace retinanet_fast
