// From at::Tensor to a kernel's raw pointers: checks, dtypes, the device's launcher, and errors that name the op.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/string_view.h>

#include <type_traits>

#include "kernels/common.h"
#include "kernels/cpu/kernels.h"

// The CUDA launcher of an op, or null in a build without CUDA kernels.
#if defined(RETINANET_FAST_WITH_CUDA) || defined(RETINANET_FAST_EMULATE)
#define RETINANET_FAST_CUDA(launcher) launcher
#else
#define RETINANET_FAST_CUDA(launcher) nullptr
#endif

namespace retinanet_fast {

// at::parallel_for as an Executor: torch.set_num_threads() and torch's own thread pool apply.
const Executor& torch_executor();

// torch's current stream on `device`.
CudaStream current_stream(const at::Device& device);

// The dtype as kernels know it; a TypeError that names op and argument for any other.
DType dtype_of(const char* op, const char* argument, const at::Tensor& tensor);

// Throws what `status` says, naming `op`; nothing when it is ok.
void raise_unless_ok(const char* op, const Status& status);

// ---- argument checks, once for both devices -----------------------------------------------------------------

// `boxes` is floating point and [N, 4].
void check_boxes(const char* op, const char* argument, const at::Tensor& boxes);

// `tensor` lies on the device of `like` and has its dtype.
void check_same_device(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like);
void check_same_dtype(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like);

// ---- losses ---------------------------------------------------------------------------------------------------

enum class Reduction : int8_t { kNone, kMean, kSum };

// "none", "mean" or "sum"; a ValueError for anything else.
Reduction parse_reduction(const char* op, c10::string_view reduction);

// A ValueError unless gamma is finite and >= 0.
void check_gamma(const char* op, double gamma);

// gradient * scale, written into `gradient`, which nobody else may hold, and not touched if the scale is 1. Does not
// synchronise: on CUDA the device looks at the scale.
at::Tensor scale_gradient(at::Tensor gradient, const at::Tensor& scale);

// ---- running a kernel ---------------------------------------------------------------------------------------

// Whether an op on `tensor` runs the CPU kernels, for code that allocates or orders for one or the other. The test
// build with RETINANET_FAST_EMULATE runs the CUDA kernels on CPU tensors (tests/emulator).
#ifdef RETINANET_FAST_EMULATE
bool uses_cpu_kernels(const at::Tensor& tensor);
#else
inline bool uses_cpu_kernels(const at::Tensor& tensor) { return tensor.is_cpu(); }
#endif

// Runs the launcher of the device that `tensor` lies on.
template <class Params>
void run(const char* op, const at::Tensor& tensor, const Params& params,
         Status (*CpuKernels::*cpu)(const Params&, const Executor&),
         std::type_identity_t<Status (*)(const Params&, CudaStream)> cuda) {
  if (uses_cpu_kernels(tensor)) return raise_unless_ok(op, (cpu_kernels().*cpu)(params, torch_executor()));
#ifndef RETINANET_FAST_EMULATE
  TORCH_CHECK(tensor.is_cuda(), op, ": expected a CPU or CUDA tensor, got one on ", tensor.device());
#endif
  TORCH_CHECK(
      cuda != nullptr, op,
      ": this build of retinanet_fast has no CUDA kernels; `retinanet-fast info` says why and how to build them");
  const c10::DeviceGuard guard(tensor.device());
  raise_unless_ok(op, cuda(params, current_stream(tensor.device())));
}

// ---- autograd -----------------------------------------------------------------------------------------------

// The dispatcher's handle of an op, looked up once: static const auto op = typed_op<Signature>("retinanet_fast::nms").
template <class Signature>
c10::TypedOperatorHandle<Signature> typed_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

template <class... Tensors>
bool needs_grad(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (... || (tensors.defined() && tensors.requires_grad()));
}

}  // namespace retinanet_fast
