#include "tensor/op.h"

#include <algorithm>

namespace retinanet_fast {

// Classes of autograd have names outside of anonymous namespaces: a profiler shows them.
namespace autograd {

class OnceDifferentiable : public torch::autograd::Function<OnceDifferentiable> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, at::TensorList /*inputs*/,
                                                at::TensorList gradients, const std::string& op) {
    context->saved_data["op"] = op;
    torch::autograd::variable_list outputs;
    for (const at::Tensor& gradient : gradients) outputs.push_back(gradient.detach());
    return outputs;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list) {
    const std::string op = context->saved_data["op"].toStringRef();
    TORCH_CHECK_NOT_IMPLEMENTED(false, op, ": has no second derivative; retinanet_fast.reference.", op, " has one");
  }
};

}  // namespace autograd

void raise_unless_ok(const char* op, const Status& status) {
  switch (status.code) {
    case Status::Code::kOk: return;
    case Status::Code::kBadLabel:
      TORCH_CHECK_INDEX(false, op, ": expected class indices in [", status.low, ", ", status.high, "), got ",
                        status.value, " at row ", status.row);
    case Status::Code::kBadBox:
      TORCH_CHECK_VALUE(false, op, ": expected finite gt_boxes with x2 > x1 and y2 > y1, got another in image ",
                        status.value, ", row ", status.row, "; remove it or correct its corners");
    case Status::Code::kBadCount:
      TORCH_CHECK_VALUE(false, op,
                        ": expected gt_counts of at least 0 and at most the rows of gt_boxes, got another for "
                        "image ",
                        status.value);
    case Status::Code::kCuda: TORCH_CHECK(false, op, ": CUDA: ", cuda_error_text(status.value));
  }
  TORCH_INTERNAL_ASSERT(false, op, ": unknown status");
}

bool requires_grad(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) { return requires_grad(tensor); });
}

bool has_tangent(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) { return has_tangent(tensor); });
}

bool is_traced(at::TensorList tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) { return is_traced(tensor); });
}

torch::autograd::variable_list once_differentiable(const char* op, at::TensorList inputs,
                                                   torch::autograd::variable_list gradients) {
  if (!at::GradMode::is_enabled()) return gradients;
  std::vector<at::Tensor> defined;
  for (const at::Tensor& gradient : gradients) {
    if (gradient.defined()) defined.push_back(gradient);
  }
  if (defined.empty()) return gradients;
  torch::autograd::variable_list wrapped =
      autograd::OnceDifferentiable::apply(inputs, at::TensorList(defined), std::string(op));
  auto next = wrapped.begin();
  for (at::Tensor& gradient : gradients) {
    if (gradient.defined()) gradient = *next++;
  }
  return gradients;
}

}  // namespace retinanet_fast
