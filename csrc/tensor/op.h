// How every op is registered, launched and differentiated.
#pragma once

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/common.h"
#include "kernels/cpu/kernels.h"
#include "tensor/device.h"

// The CUDA launcher of an op, or null in a build without CUDA kernels.
#ifdef RETINANET_FAST_WITH_CUDA
#define RETINANET_FAST_CUDA_LAUNCHER(launcher) launcher
#else
#define RETINANET_FAST_CUDA_LAUNCHER(launcher) nullptr
#endif

namespace retinanet_fast {

// ---- registration -------------------------------------------------------------------------------------------------

inline constexpr void (*kNothing)() = nullptr;

// Registers an op: `kernel` for tensors on the CPU and on CUDA, `autograd` where a gradient may be asked for,
// `autocast` under torch.autocast. Without `autograd` the result has no gradient; without `autocast` the op does there
// what it does elsewhere.
template <auto* kernel, auto* autograd = kNothing, auto* autocast = kNothing>
void define_op(torch::Library& library, const std::string& schema) {
  const std::string name = schema.substr(0, schema.find('('));
  library.def(schema.c_str());
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(kernel)));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CUDA, TORCH_FN(kernel)));
  if constexpr (autograd == nullptr) {
    library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Autograd, torch::CppFunction::makeFallthrough()));
  } else {
    library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(autograd)));
  }
  if constexpr (autocast != nullptr) {
    library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::AutocastCPU, TORCH_FN(autocast)));
    library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::AutocastCUDA, TORCH_FN(autocast)));
  }
}

// The dispatcher's handle of a registered op, with the signature of its kernel. The caller keeps it, since the look-up
// takes time: static const auto op = dispatcher_handle<nms>("nms").
template <auto* kernel>
auto dispatcher_handle(const std::string& name) {
  using Signature = std::remove_pointer_t<decltype(kernel)>;
  return c10::Dispatcher::singleton().findSchemaOrThrow(("retinanet_fast::" + name).c_str(), "").typed<Signature>();
}

// ---- launch -------------------------------------------------------------------------------------------------------

// Throws the error that `status` stands for, naming `op`, unless it is ok.
void raise_unless_ok(const char* op, const Status& status);

// Runs the launcher of the device that `tensor` lies on. The one place that guards a device.
template <class Params>
void launch(const char* op, const at::Tensor& tensor, const Params& params,
            Status (*CpuKernels::*cpu)(const Params&, const Executor&),
            std::type_identity_t<Status (*)(const Params&, CudaStream)> cuda) {
  if (uses_cpu_kernels(op, tensor)) return raise_unless_ok(op, (cpu_kernels().*cpu)(params, torch_executor()));
  TORCH_CHECK(
      cuda != nullptr, op,
      ": this build of retinanet_fast has no CUDA kernels; `retinanet-fast info` says why and how to build them");
  const c10::DeviceGuard guard(tensor.device());
  raise_unless_ok(op, cuda(params, current_stream(tensor.device())));
}

// ---- autograd -----------------------------------------------------------------------------------------------------

inline bool requires_grad(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }
bool requires_grad(at::TensorList tensors);  // any of them

template <class... Tensors>
bool needs_grad(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (... || requires_grad(tensors));
}

// Whether a tensor has a tangent, in forward-mode AD.
inline bool has_tangent(const at::Tensor& tensor) { return tensor.defined() && tensor._fw_grad(/*level=*/0).defined(); }
bool has_tangent(at::TensorList tensors);

// Calls what stands for `op` under torch.func's transforms: PyTorch's own ops (retinanet_fast/_transforms), which carry
// tangents along.
template <class Handle, class... Args>
auto call_transformable(const Handle& op, const Args&... args) {
  constexpr auto key = c10::DispatchKey::FuncTorchDynamicLayerFrontMode;
  TORCH_CHECK_NOT_IMPLEMENTED(op.hasKernelForDispatchKey(key), op.operator_name().name,
                              ": forward-mode AD needs the Python package: import retinanet_fast.ops");
  return op.redispatch(c10::DispatchKeySet(key), args...);
}

// Whether the call is recorded for torch.compile or torch.export.
inline bool is_traced(const at::Tensor& tensor) { return tensor.defined() && at::isTensorSubclassLike(tensor); }
bool is_traced(at::TensorList tensors);

// What may be saved for the backward pass: `tensor`, or a copy of one that was made in inference mode, such as the
// labels that a teacher gave, which autograd does not take.
inline at::Tensor saveable(const at::Tensor& tensor) {
  return tensor.defined() && tensor.is_inference() ? tensor.clone() : tensor;
}

// What a backward pass returns: `gradients`. Where the pass itself is recorded (create_graph=True) they become
// functions of `inputs` that raise an error when they are differentiated.
torch::autograd::variable_list once_differentiable(const char* op, at::TensorList inputs,
                                                   torch::autograd::variable_list gradients);

// Multiplies gradients that nobody else holds by a scale, in place. With a scale of 1 they are not touched. Does not
// synchronise: on CUDA the kernel reads the scale, in one launch for each dtype. Traced ones are replaced, since a
// compiled program may not change what its forward pass has saved.
struct GradientsToScale {
  std::vector<at::Tensor>& gradients;
  const at::Tensor& scale;
};
void scale_gradients(std::initializer_list<GradientsToScale> groups);

}  // namespace retinanet_fast
