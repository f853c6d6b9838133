// Errors in data that lies on a GPU, without waiting for it: a kernel writes what it found into host memory, and the
// next call of such an op on that device raises it.
#pragma once

#include <ATen/core/Tensor.h>

namespace retinanet_fast {

// A word of host memory that the CUDA kernels of an op on `tensor` may write bad_box_code() or
// bad_label_code() to; null where CPU kernels
// run, which report at once. Raises what an earlier call left there.
int64_t* deferred_error(const char* op, const at::Tensor& tensor);

// After a launch: raises what it left, where CUDA kernels have run to their end by now, as in the emulator.
void raise_deferred_error_of_emulator(const char* op, const at::Tensor& tensor);

}  // namespace retinanet_fast
