// Errors in data on a GPU, without waiting for the GPU: a kernel writes what it found to host memory, and the next call
// of such an op on that device, or synchronize_errors(), raises it.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/common.h"

namespace retinanet_fast {

class DeferredError {
 public:
  // For a call of `op` on `tensor`. Raises what earlier calls on that device left.
  DeferredError(const char* op, const at::Tensor& tensor);

  // The word of host memory to which CUDA kernels of this call may write bad_box_code() or bad_label_code(). Null where
  // CPU kernels run, which report at once, and where a graph is captured before any other call on the device.
  int64_t* word() const { return word_; }

  // After a launch: raises what it left if the device is sure to have finished it by now.
  void raise_if_known() const;

 private:
  c10::Device device_;
  int64_t* word_;
};

// Waits for every device on which such an op has run, and raises what they left.
RETINANET_FAST_API void synchronize_errors();

}  // namespace retinanet_fast
