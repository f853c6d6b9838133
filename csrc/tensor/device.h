// Where kernels run: on which device, on whose threads, in which stream.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/common.h"

namespace retinanet_fast {

// Whether an op on `tensor` runs the CPU kernels; an error for a device that has no kernels.
bool uses_cpu_kernels(const char* op, const at::Tensor& tensor);

// at::parallel_for as an Executor: torch.set_num_threads() and torch's own thread pool apply.
const Executor& torch_executor();

// torch's current stream on `device`.
CudaStream current_stream(const at::Device& device);

// Whether a launch on `device` has finished when it returns.
bool runs_synchronously(const at::Device& device);

// Whether work in that stream is recorded into a graph instead of run.
bool is_capturing(const at::Device& device);

// Waits until all that was launched on `device` has run.
void synchronize(const at::Device& device);

// A launcher's cudaError_t in words.
const char* cuda_error_text(int64_t error);

}  // namespace retinanet_fast
