#include "kernels/sigmoid_focal_loss.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "tensor/checks.h"
#include "tensor/deferred_error.h"
#include "tensor/memory.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "sigmoid_focal_loss";

void check(const at::Tensor& inputs, const at::Tensor& targets, double alpha, double gamma) {
  dtype_of(kOp, "inputs", inputs);
  check_alpha(kOp, alpha);
  check_gamma(kOp, gamma);
  check_same_device(kOp, "targets", targets, inputs);
  if (targets.is_floating_point()) {
    TORCH_CHECK_VALUE(targets.sizes() == inputs.sizes(), kOp, ": expected float targets of the inputs' shape ",
                      inputs.sizes(), ", got ", targets.sizes());
    dtype_of(kOp, "targets", targets);
    return;
  }
  TORCH_CHECK_TYPE(targets.scalar_type() == at::kLong || targets.scalar_type() == at::kInt, kOp,
                   ": expected targets of a floating point dtype, int64 or int32, got ", targets.scalar_type());
  TORCH_CHECK_VALUE(inputs.dim() >= 1 && targets.sizes() == inputs.sizes().slice(0, inputs.dim() - 1), kOp,
                    ": expected integer targets of shape inputs.shape[:-1] with inputs ", inputs.sizes(), ", got ",
                    targets.sizes(),
                    targets.sizes() == inputs.sizes() ? "; one-hot targets are floating point: targets.float()" : "");
}

// The dtype to compute in. Soft targets are not rounded to the logits' dtype: the wider of the two counts.
at::ScalarType common_dtype(const at::Tensor& inputs, const at::Tensor& targets) {
  return targets.is_floating_point() ? at::promote_types(inputs.scalar_type(), targets.scalar_type())
                                     : inputs.scalar_type();
}

// The dtype of the loss.
at::ScalarType loss_dtype(const at::Tensor& inputs, const at::Tensor& targets, bool wide_loss) {
  const at::ScalarType dtype = common_dtype(inputs, targets);
  return wide_loss ? at::promote_types(dtype, at::kFloat) : dtype;
}

// The one dtype that the kernels read, in which they also write the losses of the single elements.
at::ScalarType kernel_dtype(const at::Tensor& inputs, const at::Tensor& targets, Reduction reduction, bool wide_loss) {
  return reduction == Reduction::kNone ? loss_dtype(inputs, targets, wide_loss) : common_dtype(inputs, targets);
}

bool have_dtype(const at::Tensor& inputs, const at::Tensor& targets, at::ScalarType dtype) {
  return inputs.scalar_type() == dtype && (!targets.is_floating_point() || targets.scalar_type() == dtype);
}

at::Tensor soft_targets_to(const at::Tensor& targets, at::ScalarType dtype) {
  return targets.is_floating_point() ? targets.to(dtype) : targets;
}

// `tensor` in the dense layout of `like`: itself where it has that already.
at::Tensor with_layout_of(const at::Tensor& like, const at::Tensor& tensor) {
  if (tensor.strides() == like.strides()) return tensor;
  return at::empty_strided(like.sizes(), like.strides(), tensor.options()).copy_(tensor);
}

// Inputs and targets as the kernel takes them. Labels need contiguous rows; with soft targets any dense layout will do,
// which the results then have too.
struct Prepared {
  at::Tensor inputs;
  at::Tensor targets;

  Prepared(const at::Tensor& x, const at::Tensor& t) {
    if (t.is_floating_point()) {
      inputs = x.is_non_overlapping_and_dense() ? x : with_layout_of(at::empty_like(x), x);
      targets = with_layout_of(inputs, t);
    } else {
      inputs = x.contiguous();
      targets = t.to(at::kLong).contiguous();
    }
  }

  SigmoidFocalLossParams params(double alpha, double gamma, Reduction reduction) const {
    const bool soft = targets.is_floating_point();
    return {
        .inputs = inputs.const_data_ptr(),
        .labels = soft ? nullptr : targets.const_data_ptr<int64_t>(),
        .targets = soft ? targets.const_data_ptr() : nullptr,
        .elements = inputs.numel(),
        .classes = soft ? 1 : inputs.size(-1),
        .alpha = alpha,
        .gamma = gamma,
        .scale = reduction == Reduction::kMean ? 1.0 / double(inputs.numel()) : 1.0,
        .dtype = dtype_of(kOp, "inputs", inputs),
    };
  }

  void run(SigmoidFocalLossParams params) const {
    const DeferredError error(kOp, inputs);
    params.bad_label = error.word();
    launch(kOp, inputs, params, &CpuKernels::sigmoid_focal_loss, RETINANET_FAST_CUDA_LAUNCHER(sigmoid_focal_loss_cuda));
    error.raise_if_known();
  }
};

struct LossAndGradient {
  at::Tensor loss;
  at::Tensor gradient;  // with respect to the inputs, if asked for
};

LossAndGradient compute(const at::Tensor& inputs, const at::Tensor& targets, double alpha, double gamma,
                        Reduction reduction, bool wide_loss, bool with_gradient) {
  check(inputs, targets, alpha, gamma);
  const at::ScalarType dtype = kernel_dtype(inputs, targets, reduction, wide_loss);
  if (!have_dtype(inputs, targets, dtype)) {
    return compute(inputs.to(dtype), soft_targets_to(targets, dtype), alpha, gamma, reduction, wide_loss,
                   with_gradient);
  }
  const Prepared prepared(inputs, targets);
  LossAndGradient result;
  if (with_gradient) result.gradient = empty_dense_like(prepared.inputs);
  if (reduction == Reduction::kNone) {
    result.loss = empty_dense_like(prepared.inputs);
  } else {
    result.loss = at::empty({}, inputs.options().dtype(loss_dtype(inputs, targets, wide_loss)));
  }
  if (inputs.numel() == 0) {
    // As torch has it: the sum over nothing is 0, its mean NaN.
    if (reduction != Reduction::kNone) result.loss.fill_(reduction == Reduction::kSum ? 0.0 : NAN);
    return result;
  }
  SigmoidFocalLossParams params = prepared.params(alpha, gamma, reduction);
  at::Tensor partial_sums;
  if (reduction == Reduction::kNone) {
    params.loss = result.loss.mutable_data_ptr();
  } else {
    partial_sums = at::empty({sigmoid_focal_loss_tiles(params.elements)}, inputs.options().dtype(at::kDouble));
    params.sum = result.loss.mutable_data_ptr();
    params.wide_scalars = wide_loss;
    params.partial_sums = partial_sums.mutable_data_ptr<double>();
  }
  if (with_gradient) params.grad_inputs = result.gradient.mutable_data_ptr();
  prepared.run(params);
  return result;
}

at::Tensor sigmoid_focal_loss(const at::Tensor& inputs,   // [..., K]
                              const at::Tensor& targets,  // [..., K] floating point, or [...] labels
                              double alpha, double gamma, c10::string_view reduction, bool wide_loss) {
  return compute(inputs, targets, alpha, gamma, parse_reduction(kOp, reduction), wide_loss, false).loss;
}

std::tuple<at::Tensor, at::Tensor> sigmoid_focal_loss_with_gradient(const at::Tensor& inputs, const at::Tensor& targets,
                                                                    double alpha, double gamma,
                                                                    c10::string_view reduction, bool wide_loss) {
  LossAndGradient result = compute(inputs, targets, alpha, gamma, parse_reduction(kOp, reduction), wide_loss, true);
  return {std::move(result.loss), std::move(result.gradient)};
}

bool all_one_element(const at::Tensor& tensor) {
  return std::all_of(tensor.strides().begin(), tensor.strides().end(), [](int64_t stride) { return stride == 0; });
}

std::tuple<at::Tensor, at::Tensor> sigmoid_focal_loss_backward(const at::Tensor& grad_output,  // of the loss's shape
                                                               const at::Tensor& inputs,       // [..., K]
                                                               const at::Tensor& targets,      // [..., K] or [...]
                                                               double alpha, double gamma,
                                                               c10::string_view reduction_name, bool targets_grad) {
  check(inputs, targets, alpha, gamma);
  const Reduction reduction = parse_reduction(kOp, reduction_name);
  check_same_device(kOp, "grad_output", grad_output, inputs);
  if (targets.is_floating_point()) check_same_dtype(kOp, "targets", targets, inputs);
  // A scalar may have the wide type that the loss has then.
  const bool wide = reduction != Reduction::kNone && grad_output.scalar_type() == loss_dtype(inputs, targets, true);
  if (!wide) check_same_dtype(kOp, "grad_output", grad_output, inputs);
  const at::IntArrayRef loss_shape = reduction == Reduction::kNone ? inputs.sizes() : at::IntArrayRef{};
  TORCH_CHECK_VALUE(grad_output.sizes() == loss_shape, kOp, ": expected grad_output ", loss_shape, ", got ",
                    grad_output.sizes());
  const Prepared prepared(inputs, targets);
  at::Tensor grad_inputs = empty_dense_like(prepared.inputs);
  at::Tensor grad_targets = targets_grad ? empty_dense_like(prepared.inputs) : at::empty({0}, inputs.options());
  if (inputs.numel() == 0) return {grad_inputs, grad_targets};
  SigmoidFocalLossParams params = prepared.params(alpha, gamma, reduction);
  // A caller that sums the losses itself passes one element, expanded.
  params.grad_output_is_scalar = all_one_element(grad_output);
  params.wide_scalars = wide;
  const at::Tensor factors = params.grad_output_is_scalar ? grad_output : with_layout_of(prepared.inputs, grad_output);
  params.grad_output = factors.const_data_ptr();
  params.grad_inputs = grad_inputs.mutable_data_ptr();
  if (targets_grad) params.grad_targets = grad_targets.mutable_data_ptr();
  prepared.run(params);
  return {grad_inputs, grad_targets};
}

// A reduced loss makes the gradient in the same pass, for an incoming gradient of 1, and the backward pass hands it
// out: the logits are read once instead of twice. Not for
// - float16, whose small numbers a GradScaler must scale before they are rounded;
// - soft targets that need a gradient too.
bool makes_gradient_in_forward(const at::Tensor& inputs, const at::Tensor& targets, Reduction reduction) {
  return reduction != Reduction::kNone && inputs.requires_grad() && !targets.requires_grad() &&
         inputs.scalar_type() != at::kHalf;
}

}  // namespace

namespace autograd {

class SigmoidFocalLoss : public torch::autograd::Function<SigmoidFocalLoss> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& inputs,
                            const at::Tensor& targets, double alpha, double gamma, const std::string& reduction,
                            bool wide_loss) {
    static const auto op = dispatcher_handle<sigmoid_focal_loss>("sigmoid_focal_loss");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({saveable(inputs), saveable(targets)});
    context->saved_data["alpha"] = alpha;
    context->saved_data["gamma"] = gamma;
    context->saved_data["reduction"] = reduction;
    context->saved_data["targets_grad"] = targets.requires_grad();
    const Reduction kind = parse_reduction(kOp, reduction);
    if (!makes_gradient_in_forward(inputs, targets, kind)) {
      return op.call(inputs, targets, alpha, gamma, reduction, wide_loss);
    }
    static const auto both = dispatcher_handle<sigmoid_focal_loss_with_gradient>("sigmoid_focal_loss_with_gradient");
    auto [loss, gradient] = both.call(inputs, targets, alpha, gamma, reduction, wide_loss);
    context->saved_data["gradient"] = std::move(gradient);
    return loss;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = dispatcher_handle<sigmoid_focal_loss_backward>("sigmoid_focal_loss_backward");
    const auto saved = context->get_saved_variables();  // raises an error if they were changed in place
    const auto gradient = context->saved_data.find("gradient");
    if (gradient != context->saved_data.end() && !at::GradMode::is_enabled()) {
      // Nothing else refers to it afterwards, so it may be scaled in place and accumulated without a copy. A second
      // backward pass computes it again.
      std::vector<at::Tensor> taken{std::move(gradient->second).toTensor()};
      context->saved_data.erase(gradient);
      scale_gradients({{taken, grads[0]}});
      return {taken[0], {}, {}, {}, {}, {}};
    }
    auto& data = context->saved_data;
    const bool targets_grad = data["targets_grad"].toBool();
    auto [grad_inputs, grad_targets] = op.call(grads[0], saved[0], saved[1], data["alpha"].toDouble(),
                                               data["gamma"].toDouble(), data["reduction"].toStringRef(), targets_grad);
    return once_differentiable(kOp, {saved[0], saved[1], grads[0]},
                               {grad_inputs, targets_grad ? grad_targets : at::Tensor(), {}, {}, {}, {}});
  }
};

}  // namespace autograd

namespace {

at::Tensor sigmoid_focal_loss_autograd(const at::Tensor& inputs, const at::Tensor& targets, double alpha, double gamma,
                                       c10::string_view reduction, bool wide_loss) {
  static const auto op = dispatcher_handle<sigmoid_focal_loss>("sigmoid_focal_loss");
  if (has_tangent(inputs) || has_tangent(targets)) {
    return call_transformable(op, inputs, targets, alpha, gamma, reduction, wide_loss);
  }
  if (!needs_grad(inputs, targets)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.call(inputs, targets, alpha, gamma, reduction, wide_loss);
  }
  const at::ScalarType dtype = kernel_dtype(inputs, targets, parse_reduction(kOp, reduction), wide_loss);
  if (!have_dtype(inputs, targets, dtype)) {  // converted here, where autograd records it
    check(inputs, targets, alpha, gamma);
    return op.call(inputs.to(dtype), soft_targets_to(targets, dtype), alpha, gamma, reduction, wide_loss);
  }
  return autograd::SigmoidFocalLoss::apply(inputs, targets, alpha, gamma, std::string(reduction), wide_loss);
}

// Under autocast the losses of float16 and bfloat16 logits are float32, as those of torch's cross entropies are: the
// sum of a million losses is no float16. The logits are read as they are where the loss is reduced.
at::Tensor sigmoid_focal_loss_autocast(const at::Tensor& inputs, const at::Tensor& targets, double alpha, double gamma,
                                       c10::string_view reduction, bool /*wide_loss*/) {
  static const auto op = dispatcher_handle<sigmoid_focal_loss>("sigmoid_focal_loss");
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return op.call(inputs, targets, alpha, gamma, reduction, true);
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // Sigmoid focal loss of logits [..., K] and targets [..., K] or labels [...]; float32 at least if wide_loss.
  define_op<sigmoid_focal_loss, sigmoid_focal_loss_autograd, sigmoid_focal_loss_autocast>(
      m,
      "sigmoid_focal_loss(Tensor inputs, Tensor targets, float alpha=0.25, float gamma=2.0, str reduction=\"none\", "
      "bool wide_loss=False) -> Tensor");
  define_op<sigmoid_focal_loss_with_gradient>(
      m,
      "sigmoid_focal_loss_with_gradient(Tensor inputs, Tensor targets, float alpha, float gamma, str reduction, "
      "bool wide_loss) -> (Tensor, Tensor)");
  define_op<sigmoid_focal_loss_backward>(
      m,
      "sigmoid_focal_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, float alpha, float gamma, "
      "str reduction, bool targets_grad) -> (Tensor, Tensor)");
}

}  // namespace
}  // namespace retinanet_fast
