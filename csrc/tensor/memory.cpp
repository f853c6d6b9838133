#include "tensor/memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/Allocator.h>

#include <array>
#include <memory>
#include <mutex>
#include <utility>

#include "tensor/device.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace retinanet_fast {

#if defined(__linux__) && defined(MADV_HUGEPAGE) && defined(MADV_FREE)

namespace {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kLarge = 4 * kHugePage;      // smaller blocks are recycled by malloc itself
constexpr size_t kLargest = size_t(1) << 30;  // larger blocks are not kept

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
};

// From the system itself, at a huge page's boundary: what malloc gave might go back to its heap alone. `bytes` are
// whole huge pages; null where there is no memory.
void* map_pages(size_t bytes) {
  void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* start = static_cast<char*>(mapped);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(start) % kHugePage) % kHugePage;
  if (before > 0) munmap(start, before);
  munmap(start + before + bytes, kHugePage - before);
  return start + before;
}

void unmap(const Block& block) {
  if (block.memory != nullptr) munmap(block.memory, block.bytes);
}

// malloc gives blocks of tens of megabytes back to the system at once, and touching them anew, page fault by page
// fault, takes longer than computing a focal loss. So a few freed blocks are kept for the next step, in huge pages, and
// all but one marked as free to the system, which takes them when it is short of memory.
class RecyclingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    Block block = take(bytes);
    if (block.memory == nullptr) {
      block.bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
      block.memory = map_pages(block.bytes);
      TORCH_CHECK_WITH(OutOfMemoryError, block.memory != nullptr, "retinanet_fast: cannot allocate ", bytes, " bytes");
      madvise(block.memory, block.bytes, MADV_HUGEPAGE);  // advice: a refusal changes nothing
    }
    report(block, int64_t(block.bytes));
    return {block.memory, new Block(block), &RecyclingAllocator::release, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  // Gives the kept blocks back to the system.
  void release_all() {
    const std::lock_guard lock(mutex_);
    for (Block& kept : kept_) unmap(std::exchange(kept, {}));
  }

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

  // A kept block of at least `bytes` and not much more, the one released last if it fits.
  Block take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < kept_.size(); ++i) {
      Block& kept = kept_[(last_ + kept_.size() - i) % kept_.size()];
      if (kept.bytes >= bytes && kept.bytes - bytes <= bytes / 8) return std::exchange(kept, {});
    }
    return {};
  }

  // The block released last is likely to be asked for next, and marking takes time: only those before it are marked.
  static void release(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    report(*block, -int64_t(block->bytes));
    if (block->bytes > kLargest) return unmap(*block);
    RecyclingAllocator& self = instance();
    Block oldest;
    {
      const std::lock_guard lock(self.mutex_);
      const Block& before = self.kept_[self.last_];
      if (before.memory != nullptr) {
        madvise(before.memory, before.bytes, MADV_FREE);
        self.last_ = (self.last_ + 1) % self.kept_.size();
      }
      oldest = std::exchange(self.kept_[self.last_], *block);
    }
    unmap(oldest);
  }

  std::mutex mutex_;
  std::array<Block, 4> kept_;
  size_t last_ = 0;
};

// With the sizes, strides and dtype of `meta`, a tensor without memory.
at::Tensor empty_large(const at::Tensor& meta) {
  return at::detail::empty_strided_generic(meta.sizes(), meta.strides(), &RecyclingAllocator::instance(),
                                           c10::DispatchKeySet(c10::DispatchKey::CPU), meta.scalar_type());
}

bool is_large(const at::Tensor& like, size_t elements) {
  return uses_cpu_kernels("empty_dense_like", like) && elements * like.element_size() >= kLarge;
}

}  // namespace

at::Tensor empty_dense_like(const at::Tensor& like) {
  if (!is_large(like, like.numel())) return at::empty_like(like);
  return empty_large(at::empty_like(like, like.options().device(at::kMeta)));
}

at::Tensor empty_dense_like(const at::Tensor& like, at::IntArrayRef sizes) {
  if (!is_large(like, c10::multiply_integers(sizes))) return at::empty(sizes, like.options());
  return empty_large(at::empty(sizes, like.options().device(at::kMeta)));
}

void release_kept_memory() { RecyclingAllocator::instance().release_all(); }

#else

at::Tensor empty_dense_like(const at::Tensor& like) { return at::empty_like(like); }

at::Tensor empty_dense_like(const at::Tensor& like, at::IntArrayRef sizes) { return at::empty(sizes, like.options()); }

void release_kept_memory() {}

#endif

}  // namespace retinanet_fast
