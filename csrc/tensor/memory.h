// Memory for results.
#pragma once

#include <ATen/core/Tensor.h>

namespace retinanet_fast {

// An uninitialised tensor like `like`, which is dense. Large ones on the CPU lie in memory that is kept for the next
// step.
at::Tensor empty_dense_like(const at::Tensor& like);

// The same, contiguous, of other sizes.
at::Tensor empty_dense_like(const at::Tensor& like, at::IntArrayRef sizes);

// Gives what is kept back to the system.
void release_kept_memory();

}  // namespace retinanet_fast
