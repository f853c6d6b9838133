// One buffer cut into arrays. With a null base it only measures, with the buffer it hands out pointers, so that the
// same few lines give a workspace's size and its layout.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/platform.h"

namespace retinanet_fast {

class Workspace {
 public:
  static constexpr size_t kAlignment = 64;

  RETINANET_FAST_INLINE explicit Workspace(void* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <class T>
  RETINANET_FAST_INLINE T* take(int64_t count) {
    const size_t offset = (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
    bytes_ = offset + size_t(count) * sizeof(T);
    return reinterpret_cast<T*>(base_ == 0 ? 0 : base_ + offset);
  }

  RETINANET_FAST_INLINE size_t bytes() const { return bytes_; }

 private:
  uintptr_t base_;  // aligned to kAlignment
  size_t bytes_ = 0;
};

}  // namespace retinanet_fast
