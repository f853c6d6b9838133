// Memory for results.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/common.h"

namespace retinanet_fast {

// An uninitialised dense tensor with the sizes, dtype and device of `like`, in its layout if that is dense. On the CPU
// large ones lie in memory that is kept for the next step.
at::Tensor empty_dense_like(const at::Tensor& like);

// The same, contiguous, of other sizes.
at::Tensor empty_dense_like(const at::Tensor& like, at::IntArrayRef sizes);

// Gives the kept memory back to the system.
RETINANET_FAST_API void release_kept_memory();

}  // namespace retinanet_fast
