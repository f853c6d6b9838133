// The op's arguments are listed three times: in the schema, as the fields of LossArguments and as the types of
// `Functions`. All other code takes them together.
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <list>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/scale_gradient.h"
#include "tensor/op.h"
#include "tensor/retinanet_loss_launch.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "retinanet_loss";

using LossesAndGradients = std::tuple<at::Tensor, at::Tensor, std::vector<at::Tensor>, std::vector<at::Tensor>>;
using TensorLists = std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>>;

Losses call_forward(const LossArguments& in);
Losses call_transformable_forward(const LossArguments& in);
LossesAndGradients call_forward_with_gradients(const LossArguments& in, bool of_logits, bool of_deltas);
TensorLists call_backward(const at::Tensor& grad_classification, const at::Tensor& grad_box, const LossArguments& in);

// ---- autograd -----------------------------------------------------------------------------------------------------

// The gradients are made in the same pass as the losses, for an incoming gradient of 1, and backward hands them out:
// the logits are read once. Not in float16, whose small numbers a GradScaler must scale before they are rounded.
bool makes_gradients_in_forward(const LossArguments& in) {
  return in.cls_logits[0].scalar_type() != at::kHalf && in.bbox_regression[0].scalar_type() != at::kHalf;
}

using SavedData = ska::flat_hash_map<std::string, at::IValue>;

void save(torch::autograd::AutogradContext* context, LossArguments in) {
  torch::autograd::variable_list tensors{saveable(in.anchors), saveable(in.gt_counts.value_or(at::Tensor()))};
  for (const at::TensorList list : {in.cls_logits, in.bbox_regression, in.gt_boxes, in.gt_labels}) {
    for (const at::Tensor& tensor : list) tensors.push_back(saveable(tensor));
  }
  context->save_for_backward(std::move(tensors));
  SavedData& data = context->saved_data;
  data["levels"] = int64_t(in.cls_logits.size());
  in.for_each_option([&](const char* name, const auto& value) {
    using Value = std::decay_t<decltype(value)>;
    if constexpr (std::is_arithmetic_v<Value>) {
      data[name] = value;
    } else if constexpr (std::is_same_v<Value, c10::string_view>) {
      data[name] = std::string(value);
    } else {
      data[name] = value.vec();
    }
  });
}

// Makes arguments of what save() stored; raises an error if a tensor was changed in place.
class Saved {
 public:
  explicit Saved(torch::autograd::AutogradContext* context)
      : data_(context->saved_data), tensors_(context->get_saved_variables()) {
    constexpr size_t kOthers = 2;  // anchors, counts
    const at::TensorList all(tensors_);
    const auto levels = size_t(data_["levels"].toInt());
    const size_t targets = (all.size() - kOthers - 2 * levels) / 2;
    arguments_.anchors = all[0];
    if (all[1].defined()) arguments_.gt_counts = all[1];
    arguments_.cls_logits = all.slice(kOthers, levels);
    arguments_.bbox_regression = all.slice(kOthers + levels, levels);
    arguments_.gt_boxes = all.slice(kOthers + 2 * levels, targets);
    arguments_.gt_labels = all.slice(kOthers + 2 * levels + targets, targets);
    arguments_.for_each_option([&](const char* name, auto& value) { load(data_[name], value); });
    head_ = all.slice(kOthers, 2 * levels);
  }

  const LossArguments& arguments() const { return arguments_; }
  at::TensorList head() const { return head_; }

 private:
  void load(const at::IValue& from, double& value) { value = from.toDouble(); }
  void load(const at::IValue& from, bool& value) { value = from.toBool(); }
  void load(const at::IValue& from, c10::string_view& value) { value = from.toStringRef(); }
  void load(const at::IValue& from, at::ArrayRef<double>& value) {
    value = doubles_.emplace_back(from.toDoubleVector());
  }
  void load(const at::IValue& from, c10::SymIntArrayRef& value) { value = ints_.emplace_back(from.toSymIntVector()); }

  SavedData& data_;
  torch::autograd::variable_list tensors_;
  std::list<std::vector<double>> doubles_;
  std::list<std::vector<c10::SymInt>> ints_;
  LossArguments arguments_{};
  at::TensorList head_;
};

}  // namespace

namespace autograd {

class RetinanetLoss : public torch::autograd::Function<RetinanetLoss> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, at::TensorList cls_logits,
                                                at::TensorList bbox_regression, const LossArguments& in) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const bool of_logits = requires_grad(cls_logits);
    const bool of_deltas = requires_grad(bbox_regression);
    save(context, in);
    context->set_materialize_grads(false);
    at::Tensor classification, box;
    if (makes_gradients_in_forward(in)) {
      std::vector<at::Tensor> grad_logits, grad_deltas;
      std::tie(classification, box, grad_logits, grad_deltas) = call_forward_with_gradients(in, of_logits, of_deltas);
      context->saved_data[kKept] = true;
      keep(context->saved_data, "grad_logits", grad_logits);
      keep(context->saved_data, "grad_deltas", grad_deltas);
    } else {
      std::tie(classification, box) = call_forward(in);
    }
    return {classification, box};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const Saved saved(context);
    const size_t levels = saved.arguments().cls_logits.size();
    std::vector<at::Tensor> grad_logits(levels), grad_deltas(levels);
    if (context->saved_data.erase(kKept) != 0 && !at::GradMode::is_enabled()) {
      grad_logits = take(context->saved_data, "grad_logits", grads[0].defined());
      grad_deltas = take(context->saved_data, "grad_deltas", grads[1].defined());
      static_assert(2 * kMaxLevels <= kMaxScaledGradients);
      scale_gradients({{grad_logits, grads[0]}, {grad_deltas, grads[1]}});
      grad_logits.resize(levels);
      grad_deltas.resize(levels);
    } else if (grads[0].defined() || grads[1].defined()) {
      const at::Tensor& given = grads[0].defined() ? grads[0] : grads[1];
      const auto or_zero = [&](const at::Tensor& grad) { return grad.defined() ? grad : at::zeros_like(given); };
      std::tie(grad_logits, grad_deltas) = call_backward(or_zero(grads[0]), or_zero(grads[1]), saved.arguments());
    }
    torch::autograd::variable_list result = std::move(grad_logits);
    result.insert(result.end(), grad_deltas.begin(), grad_deltas.end());
    result = once_differentiable(kOp, saved.head(), std::move(result));
    result.emplace_back();  // for the arguments that are no tensors, passed as one
    return result;
  }

 private:
  static constexpr const char* kKept = "gradients_kept";

  // One entry for each level: of lists, compiled autograd does not see the tensors.
  static std::string entry(const char* name, size_t level) { return name + std::to_string(level); }

  static void keep(SavedData& data, const char* name, const std::vector<at::Tensor>& gradients) {
    for (size_t l = 0; l < gradients.size(); ++l) data[entry(name, l)] = gradients[l];
  }

  // The gradients that forward left, none if they are not wanted. Nothing else refers to them afterwards, so they may
  // be scaled in place and accumulated without a copy; a second backward pass computes them again.
  static std::vector<at::Tensor> take(SavedData& data, const char* name, bool wanted) {
    std::vector<at::Tensor> gradients;
    for (size_t l = 0; data.count(entry(name, l)) != 0; ++l) {
      if (wanted) gradients.push_back(data[entry(name, l)].toTensor());
      data.erase(entry(name, l));
    }
    return gradients;
  }
};

}  // namespace autograd

namespace {

// ---- the ops ------------------------------------------------------------------------------------------------------

template <class... Types>
struct Functions {
  static Losses forward(Types... arguments) { return LossLaunch(LossArguments{arguments...}).run(); }

  static LossesAndGradients forward_with_gradients(bool of_logits, bool of_deltas, Types... arguments) {
    const LossArguments in{arguments...};
    LossLaunch launch(in);
    LossGradients gradients = launch.add_gradients(of_logits, of_deltas);
    const auto [classification, box] = launch.run();
    return {classification, box, std::move(gradients.cls_logits), std::move(gradients.bbox_regression)};
  }

  static TensorLists backward(const at::Tensor& grad_classification, const at::Tensor& grad_box, Types... arguments) {
    const LossArguments in{arguments...};
    LossLaunch launch(in);
    LossGradients gradients = launch.add_gradients(true, true);
    launch.run(grad_classification, grad_box);
    return {std::move(gradients.cls_logits), std::move(gradients.bbox_regression)};
  }

  static Losses autograd(Types... arguments) {
    const LossArguments in{arguments...};
    if (has_tangent(in.cls_logits) || has_tangent(in.bbox_regression)) return call_transformable_forward(in);
    if (needs_grad(in.cls_logits, in.bbox_regression)) {
      const auto losses = autograd::RetinanetLoss::apply(in.cls_logits, in.bbox_regression, in);
      // A loss whose inputs need no gradient has none. (Compiled autograd takes no outputs that are marked so.)
      return {requires_grad(in.cls_logits) ? losses[0] : losses[0].detach(),
              requires_grad(in.bbox_regression) ? losses[1] : losses[1].detach()};
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    return call_forward(in);
  }
};

using Op = Functions<at::TensorList, at::TensorList, const at::Tensor&, c10::SymIntArrayRef, c10::SymIntArrayRef,
                     at::TensorList, at::TensorList, const std::optional<at::Tensor>&, double, double, c10::string_view,
                     double, at::ArrayRef<double>, double, double, bool, bool>;

// Calls f with `first` and all arguments.
template <class F, class... First>
auto call_with(const F& f, const LossArguments& in, const First&... first) {
  return f(first..., in.cls_logits, in.bbox_regression, in.anchors, in.strides, in.grid_sizes, in.gt_boxes,
           in.gt_labels, in.gt_counts, in.alpha, in.gamma, in.box_loss, in.smooth_l1_beta, in.box_weights,
           in.high_threshold, in.low_threshold, in.allow_low_quality_matches, in.match_zero_iou);
}

template <class Handle>
auto calls(const Handle& op) {
  return [op](const auto&... arguments) { return op.call(arguments...); };
}

Losses call_forward(const LossArguments& in) {
  static const auto op = calls(dispatcher_handle<&Op::forward>("retinanet_loss"));
  return call_with(op, in);
}

LossesAndGradients call_forward_with_gradients(const LossArguments& in, bool of_logits, bool of_deltas) {
  static const auto op = calls(dispatcher_handle<&Op::forward_with_gradients>("retinanet_loss_with_gradients"));
  return call_with(op, in, of_logits, of_deltas);
}

TensorLists call_backward(const at::Tensor& grad_classification, const at::Tensor& grad_box, const LossArguments& in) {
  static const auto op = calls(dispatcher_handle<&Op::backward>("retinanet_loss_backward"));
  return call_with(op, in, grad_classification, grad_box);
}

Losses call_transformable_forward(const LossArguments& in) {
  static const auto op = dispatcher_handle<&Op::forward>("retinanet_loss");
  return call_with([](const auto&... arguments) { return call_transformable(op, arguments...); }, in);
}

#define RETINANET_LOSS_ARGUMENTS                                                                           \
  "Tensor[] cls_logits, Tensor[] bbox_regression, Tensor anchors, SymInt[] strides, SymInt[] grid_sizes, " \
  "Tensor[] gt_boxes, Tensor[] gt_labels, Tensor? gt_counts, float alpha, float gamma, str box_loss, "     \
  "float smooth_l1_beta, float[] box_weights, float high_threshold, float low_threshold, "                 \
  "bool allow_low_quality_matches, bool match_zero_iou"

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // RetinaNet's classification and box loss, from the outputs of the head's levels, [B, K * C, H, W] and [B, K * 4, H,
  // W]. anchors, strides and grid_sizes, and padded boxes, as in match_anchors.
  define_op<&Op::forward, &Op::autograd>(m, "retinanet_loss(" RETINANET_LOSS_ARGUMENTS ") -> (Tensor, Tensor)");
  define_op<&Op::forward_with_gradients>(
      m, "retinanet_loss_with_gradients(bool of_logits, bool of_deltas, " RETINANET_LOSS_ARGUMENTS
         ") -> (Tensor, Tensor, Tensor[], Tensor[])");
  define_op<&Op::backward>(
      m, "retinanet_loss_backward(Tensor grad_classification, Tensor grad_box, " RETINANET_LOSS_ARGUMENTS
         ") -> (Tensor[], Tensor[])");
}

}  // namespace
}  // namespace retinanet_fast
