// Errors in data that lies on a GPU, without waiting for it: a kernel writes what it found into host memory, and the
// next call of such an op on that device, or synchronize_errors(), raises it.
#pragma once

#include <ATen/core/Tensor.h>

namespace retinanet_fast {

class DeferredError {
 public:
  // For a call of `op` on `tensor`. Raises what earlier calls left on that device.
  DeferredError(const char* op, const at::Tensor& tensor);

  // A word of host memory that the CUDA kernels of this call may write bad_box_code() or bad_label_code() to; null
  // where CPU kernels run, which report at once, and where a graph is captured before any other call on the device.
  int64_t* word() const { return word_; }

  // After a launch: raises what it left, where the device has run it to its end by now.
  void raise_if_known() const;

 private:
  c10::Device device_;
  int64_t* word_;
};

// Waits for every device that such an op ran on, and raises what they left.
void synchronize_errors();

}  // namespace retinanet_fast
