#include "kernels/softmax_focal_loss.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <optional>
#include <string>

#include "tensor/checks.h"
#include "tensor/deferred_error.h"
#include "tensor/memory.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "softmax_focal_loss";

using Weights = std::optional<at::Tensor>;  // [C]

void check(const at::Tensor& inputs, const at::Tensor& targets, const Weights& class_weights, double alpha,
           double gamma) {
  dtype_of(kOp, "inputs", inputs);
  TORCH_CHECK_VALUE(inputs.dim() == 2, kOp, ": expected inputs [N, C], got ", inputs.sizes());
  check_labels(kOp, "targets", targets);
  TORCH_CHECK_VALUE(targets.dim() == 1 && targets.size(0) == inputs.size(0), kOp, ": expected targets [",
                    inputs.size(0), "], got ", targets.sizes());
  check_same_device(kOp, "targets", targets, inputs);
  TORCH_CHECK_VALUE(std::isfinite(alpha) && alpha >= 0, kOp, ": expected a finite alpha >= 0, got ", alpha);
  check_gamma(kOp, gamma);
  if (!class_weights) return;
  TORCH_CHECK_VALUE(class_weights->dim() == 1 && class_weights->size(0) == inputs.size(1), kOp,
                    ": expected alpha to be a number or one weight per class, [", inputs.size(1), "], got ",
                    class_weights->sizes());
  check_same_device(kOp, "alpha", *class_weights, inputs);
  TORCH_CHECK_VALUE(!class_weights->requires_grad(), kOp, ": expected alpha to need no gradient; it has none here");
}

// The tensors that the kernel reads, held while it runs.
struct Prepared {
  at::Tensor inputs;
  at::Tensor targets;
  at::Tensor class_weights;

  Prepared(const at::Tensor& x, const at::Tensor& t, const Weights& weights)
      : inputs(x.contiguous()), targets(t.to(at::kLong).contiguous()) {
    if (weights) class_weights = weights->to(at::kDouble).contiguous();
  }

  SoftmaxFocalLossParams params(double alpha, double gamma, Reduction reduction) const {
    return {
        .inputs = inputs.const_data_ptr(),
        .labels = targets.const_data_ptr<int64_t>(),
        .class_weights = class_weights.defined() ? class_weights.const_data_ptr<double>() : nullptr,
        .rows = inputs.size(0),
        .classes = inputs.size(1),
        .gamma = gamma,
        .scale = reduction == Reduction::kMean ? alpha / double(inputs.size(0)) : alpha,
        .dtype = dtype_of(kOp, "inputs", inputs),
    };
  }

  void run(SoftmaxFocalLossParams params) const {
    const DeferredError error(kOp, inputs);
    params.bad_label = error.word();
    launch(kOp, inputs, params, &CpuKernels::softmax_focal_loss, RETINANET_FAST_CUDA_LAUNCHER(softmax_focal_loss_cuda));
    error.raise_if_known();
  }
};

at::ScalarType loss_dtype(const at::Tensor& inputs, bool wide_loss) {
  return wide_loss ? at::promote_types(inputs.scalar_type(), at::kFloat) : inputs.scalar_type();
}

at::Tensor softmax_focal_loss(const at::Tensor& inputs,   // [N, C]
                              const at::Tensor& targets,  // [N]
                              const Weights& class_weights, double alpha, double gamma, c10::string_view reduction_name,
                              bool wide_loss) {
  const Reduction reduction = parse_reduction(kOp, reduction_name);
  check(inputs, targets, class_weights, alpha, gamma);
  const at::ScalarType dtype = loss_dtype(inputs, wide_loss);
  if (reduction == Reduction::kNone && dtype != inputs.scalar_type()) {  // a row's loss has the dtype of its logits
    return softmax_focal_loss(inputs.to(dtype), targets, class_weights, alpha, gamma, reduction_name, wide_loss);
  }
  const Prepared prepared(inputs, targets, class_weights);
  if (reduction == Reduction::kNone) {
    at::Tensor loss = at::empty({inputs.size(0)}, inputs.options());
    if (loss.numel() == 0) return loss;
    SoftmaxFocalLossParams params = prepared.params(alpha, gamma, reduction);
    params.loss = loss.mutable_data_ptr();
    prepared.run(params);
    return loss;
  }
  at::Tensor sum = at::empty({}, inputs.options().dtype(dtype));
  // As torch has it: the sum over nothing is 0, its mean NaN.
  if (inputs.size(0) == 0) return sum.fill_(reduction == Reduction::kSum ? 0.0 : NAN);
  SoftmaxFocalLossParams params = prepared.params(alpha, gamma, reduction);
  const at::Tensor partial_sums =
      at::empty({softmax_focal_loss_tiles(params.rows)}, inputs.options().dtype(at::kDouble));
  params.sum = sum.mutable_data_ptr();
  params.wide_scalars = wide_loss;
  params.partial_sums = partial_sums.mutable_data_ptr<double>();
  prepared.run(params);
  return sum;
}

at::Tensor softmax_focal_loss_backward(const at::Tensor& grad_output,  // [N] or []
                                       const at::Tensor& inputs,       // [N, C]
                                       const at::Tensor& targets,      // [N]
                                       const Weights& class_weights, double alpha, double gamma,
                                       c10::string_view reduction_name) {
  const Reduction reduction = parse_reduction(kOp, reduction_name);
  check(inputs, targets, class_weights, alpha, gamma);
  check_same_device(kOp, "grad_output", grad_output, inputs);
  const bool scalar = reduction != Reduction::kNone;
  // A scalar may have the wide type that the loss has then.
  const bool wide = scalar && grad_output.scalar_type() == loss_dtype(inputs, true);
  if (!wide) check_same_dtype(kOp, "grad_output", grad_output, inputs);
  TORCH_CHECK_VALUE(scalar ? grad_output.dim() == 0 : grad_output.sizes() == targets.sizes(), kOp,
                    ": expected grad_output of the loss's shape, got ", grad_output.sizes());
  const Prepared prepared(inputs, targets, class_weights);
  at::Tensor grad_inputs = empty_dense_like(prepared.inputs);
  if (inputs.size(0) == 0) return grad_inputs;
  const at::Tensor factors = grad_output.contiguous();
  SoftmaxFocalLossParams params = prepared.params(alpha, gamma, reduction);
  params.grad_output = factors.const_data_ptr();
  params.grad_output_is_scalar = scalar;
  params.wide_scalars = wide;
  params.grad_inputs = grad_inputs.mutable_data_ptr();
  prepared.run(params);
  return grad_inputs;
}

}  // namespace

namespace autograd {

class SoftmaxFocalLoss : public torch::autograd::Function<SoftmaxFocalLoss> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& inputs,
                            const at::Tensor& targets, const Weights& class_weights, double alpha, double gamma,
                            const std::string& reduction, bool wide_loss) {
    static const auto op = dispatcher_handle<softmax_focal_loss>("softmax_focal_loss");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({saveable(inputs), saveable(targets), saveable(class_weights.value_or(at::Tensor()))});
    context->saved_data["alpha"] = alpha;
    context->saved_data["gamma"] = gamma;
    context->saved_data["reduction"] = reduction;
    return op.call(inputs, targets, class_weights, alpha, gamma, reduction, wide_loss);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = dispatcher_handle<softmax_focal_loss_backward>("softmax_focal_loss_backward");
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    const Weights class_weights = saved[2].defined() ? Weights(saved[2]) : std::nullopt;
    at::Tensor grad_inputs = op.call(grads[0], saved[0], saved[1], class_weights, data["alpha"].toDouble(),
                                     data["gamma"].toDouble(), data["reduction"].toStringRef());
    return once_differentiable(kOp, {saved[0], grads[0]}, {grad_inputs, {}, {}, {}, {}, {}, {}});
  }
};

}  // namespace autograd

namespace {

at::Tensor softmax_focal_loss_autograd(const at::Tensor& inputs, const at::Tensor& targets,
                                       const Weights& class_weights, double alpha, double gamma,
                                       c10::string_view reduction, bool wide_loss) {
  static const auto op = dispatcher_handle<softmax_focal_loss>("softmax_focal_loss");
  if (has_tangent(inputs) || (class_weights && has_tangent(*class_weights))) {
    return call_transformable(op, inputs, targets, class_weights, alpha, gamma, reduction, wide_loss);
  }
  if (needs_grad(inputs) || (class_weights && needs_grad(*class_weights))) {
    const at::ScalarType dtype = loss_dtype(inputs, wide_loss);
    if (reduction == "none" && inputs.is_floating_point() && inputs.scalar_type() != dtype) {  // recorded by autograd
      return op.call(inputs.to(dtype), targets, class_weights, alpha, gamma, reduction, wide_loss);
    }
    return autograd::SoftmaxFocalLoss::apply(inputs, targets, class_weights, alpha, gamma, std::string(reduction),
                                             wide_loss);
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(inputs, targets, class_weights, alpha, gamma, reduction, wide_loss);
}

// As sigmoid_focal_loss has it.
at::Tensor softmax_focal_loss_autocast(const at::Tensor& inputs, const at::Tensor& targets,
                                       const Weights& class_weights, double alpha, double gamma,
                                       c10::string_view reduction, bool /*wide_loss*/) {
  static const auto op = dispatcher_handle<softmax_focal_loss>("softmax_focal_loss");
  const c10::impl::ExcludeDispatchKeyGuard guard(c10::autocast_dispatch_keyset);
  return op.call(inputs, targets, class_weights, alpha, gamma, reduction, true);
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // Softmax focal loss of logits [N, C] and labels [N], times alpha and the label's weight of class_weights [C];
  // float32 at least if wide_loss.
  define_op<softmax_focal_loss, softmax_focal_loss_autograd, softmax_focal_loss_autocast>(
      m,
      "softmax_focal_loss(Tensor inputs, Tensor targets, Tensor? class_weights=None, float alpha=1.0, "
      "float gamma=2.0, str reduction=\"mean\", bool wide_loss=False) -> Tensor");
  define_op<softmax_focal_loss_backward>(
      m,
      "softmax_focal_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, Tensor? class_weights, "
      "float alpha, float gamma, str reduction) -> Tensor");
}

}  // namespace
}  // namespace retinanet_fast
