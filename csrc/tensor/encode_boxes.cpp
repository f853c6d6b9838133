#include "kernels/encode_boxes.h"

#include <tuple>

#include "tensor/box_coding.h"
#include "tensor/memory.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "encode_boxes";

at::Tensor encode_boxes(const at::Tensor& boxes,    // [N, 4]
                        const at::Tensor& anchors,  // [N, 4]
                        at::ArrayRef<double> weights) {
  const at::ScalarType dtype = check_box_coding(kOp, "boxes", boxes, anchors, weights);
  const at::Tensor from_boxes = boxes.to(dtype).contiguous();
  const at::Tensor from_anchors = anchors.to(dtype).contiguous();
  at::Tensor deltas = empty_dense_like(from_boxes);
  const EncodeBoxesParams params{
      .boxes = from_boxes.const_data_ptr(),
      .anchors = from_anchors.const_data_ptr(),
      .deltas = deltas.mutable_data_ptr(),
      .n = from_boxes.size(0),
      .weights = {weights[0], weights[1], weights[2], weights[3]},
      .dtype = dtype_of(kOp, "boxes", from_boxes),
  };
  launch(kOp, from_boxes, params, &CpuKernels::encode_boxes, RETINANET_FAST_CUDA_LAUNCHER(encode_boxes_cuda));
  return deltas;
}

std::tuple<at::Tensor, at::Tensor> encode_boxes_backward(const at::Tensor& grad_deltas,  // [N, 4]
                                                         const at::Tensor& boxes,        // [N, 4]
                                                         const at::Tensor& anchors,      // [N, 4]
                                                         at::ArrayRef<double> weights) {
  const at::ScalarType dtype = check_box_coding(kOp, "boxes", boxes, anchors, weights);
  check_gradient(kOp, "grad_deltas", grad_deltas, boxes);
  const at::Tensor from_grad = grad_deltas.to(dtype).contiguous();
  const at::Tensor from_boxes = boxes.to(dtype).contiguous();
  const at::Tensor from_anchors = anchors.to(dtype).contiguous();
  at::Tensor grad_boxes = empty_dense_like(from_boxes);
  at::Tensor grad_anchors = empty_dense_like(from_anchors);
  const EncodeBoxesBackwardParams params{
      .grad_deltas = from_grad.const_data_ptr(),
      .boxes = from_boxes.const_data_ptr(),
      .anchors = from_anchors.const_data_ptr(),
      .grad_boxes = grad_boxes.mutable_data_ptr(),
      .grad_anchors = grad_anchors.mutable_data_ptr(),
      .n = from_boxes.size(0),
      .weights = {weights[0], weights[1], weights[2], weights[3]},
      .dtype = dtype_of(kOp, "boxes", from_boxes),
  };
  launch(kOp, from_boxes, params, &CpuKernels::encode_boxes_backward,
         RETINANET_FAST_CUDA_LAUNCHER(encode_boxes_backward_cuda));
  return {grad_boxes.to(boxes.scalar_type()), grad_anchors.to(anchors.scalar_type())};
}

}  // namespace

namespace autograd {

class EncodeBoxes : public torch::autograd::Function<EncodeBoxes> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& boxes,
                            const at::Tensor& anchors, at::ArrayRef<double> weights) {
    static const auto op = dispatcher_handle<encode_boxes>("encode_boxes");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({saveable(boxes), saveable(anchors)});
    context->saved_data["weights"] = weights.vec();
    return op.call(boxes, anchors, weights);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = dispatcher_handle<encode_boxes_backward>("encode_boxes_backward");
    const auto saved = context->get_saved_variables();
    const auto weights = context->saved_data["weights"].toDoubleVector();
    auto [grad_boxes, grad_anchors] = op.call(grads[0], saved[0], saved[1], weights);
    return once_differentiable(kOp, {saved[0], saved[1], grads[0]}, {grad_boxes, grad_anchors, at::Tensor()});
  }
};

}  // namespace autograd

namespace {

at::Tensor encode_boxes_autograd(const at::Tensor& boxes, const at::Tensor& anchors, at::ArrayRef<double> weights) {
  if (has_tangent(boxes) || has_tangent(anchors)) {
    static const auto op = dispatcher_handle<encode_boxes>("encode_boxes");
    return call_transformable(op, boxes, anchors, weights);
  }
  return autograd::EncodeBoxes::apply(boxes, anchors, weights);
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // The deltas [N, 4] that turn anchors into boxes, both [N, 4] xyxy.
  define_op<encode_boxes, encode_boxes_autograd>(
      m, "encode_boxes(Tensor boxes, Tensor anchors, float[] weights) -> Tensor");
  define_op<encode_boxes_backward>(
      m,
      "encode_boxes_backward(Tensor grad_deltas, Tensor boxes, Tensor anchors, float[] weights) "
      "-> (Tensor, Tensor)");
}

}  // namespace
}  // namespace retinanet_fast
