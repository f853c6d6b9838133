// Errors in data that lies on a GPU, without waiting for it: a kernel writes what it found into host memory, and the
// next call of such an op on that device raises it.
#pragma once

#include <ATen/core/Tensor.h>

namespace retinanet_fast {

class DeferredError {
 public:
  // For a call of `op` on `tensor`. Raises what an earlier call left on that device.
  DeferredError(const char* op, const at::Tensor& tensor);

  // A word of host memory that the CUDA kernels of this call may write bad_box_code() or bad_label_code() to; null
  // where CPU kernels run, which report at once.
  int64_t* word() const { return word_; }

  // After a launch: raises what it left, where the device has run it to its end by now.
  void raise_if_known() const;

 private:
  const char* op_;
  c10::Device device_;
  int64_t* word_;
};

}  // namespace retinanet_fast
