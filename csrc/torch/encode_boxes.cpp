#include "kernels/encode_boxes.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "torch/box_coding.h"
#include "torch/common.h"
#include "torch/memory.h"

namespace retinanet_fast {
namespace {

using Weights = at::ArrayRef<double>;
using Forward = at::Tensor(const at::Tensor&, const at::Tensor&, Weights);
using Backward = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const at::Tensor&, Weights);

at::Tensor encode_boxes(const at::Tensor& boxes, const at::Tensor& anchors, Weights weights) {
  const at::ScalarType dtype = check_box_coding("encode_boxes", "boxes", boxes, anchors, weights);
  const at::Tensor targets = boxes.to(dtype).contiguous();
  const at::Tensor priors = anchors.to(dtype).contiguous();
  at::Tensor deltas = empty_dense_like(targets);
  EncodeBoxesParams params{
      .boxes = targets.const_data_ptr(),
      .anchors = priors.const_data_ptr(),
      .deltas = deltas.mutable_data_ptr(),
      .n = targets.size(0),
      .weights = {weights[0], weights[1], weights[2], weights[3]},
      .dtype = dtype_of("encode_boxes", "boxes", targets),
  };
  run("encode_boxes", targets, params, &CpuKernels::encode_boxes, RETINANET_FAST_CUDA(encode_boxes_cuda));
  return deltas;
}

std::tuple<at::Tensor, at::Tensor> encode_boxes_backward(const at::Tensor& grad_deltas, const at::Tensor& boxes,
                                                         const at::Tensor& anchors, Weights weights) {
  const at::ScalarType dtype = check_box_coding("encode_boxes", "boxes", boxes, anchors, weights);
  check_gradient("encode_boxes_backward", "grad_deltas", grad_deltas, boxes);
  const at::Tensor upstream = grad_deltas.to(dtype).contiguous();
  const at::Tensor targets = boxes.to(dtype).contiguous();
  const at::Tensor priors = anchors.to(dtype).contiguous();
  at::Tensor grad_boxes = empty_dense_like(targets);
  at::Tensor grad_anchors = empty_dense_like(priors);
  EncodeBoxesBackwardParams params{
      .grad_deltas = upstream.const_data_ptr(),
      .boxes = targets.const_data_ptr(),
      .anchors = priors.const_data_ptr(),
      .grad_boxes = grad_boxes.mutable_data_ptr(),
      .grad_anchors = grad_anchors.mutable_data_ptr(),
      .n = targets.size(0),
      .weights = {weights[0], weights[1], weights[2], weights[3]},
      .dtype = dtype_of("encode_boxes", "boxes", targets),
  };
  run("encode_boxes", targets, params, &CpuKernels::encode_boxes_backward,
      RETINANET_FAST_CUDA(encode_boxes_backward_cuda));
  return {grad_boxes.to(boxes.scalar_type()), grad_anchors.to(anchors.scalar_type())};
}

class EncodeBoxes : public torch::autograd::Function<EncodeBoxes> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& boxes,
                            const at::Tensor& anchors, Weights weights) {
    static const auto op = typed_op<Forward>("retinanet_fast::encode_boxes");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({boxes, anchors});
    context->saved_data["weights"] = weights.vec();
    return op.call(boxes, anchors, weights);
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list grads) {
    static const auto op = typed_op<Backward>("retinanet_fast::encode_boxes_backward");
    const auto saved = context->get_saved_variables();
    const auto weights = context->saved_data["weights"].toDoubleVector();
    auto [grad_boxes, grad_anchors] = op.call(grads[0], saved[0], saved[1], weights);
    return {grad_boxes, grad_anchors, at::Tensor()};
  }
};

at::Tensor encode_boxes_autograd(const at::Tensor& boxes, const at::Tensor& anchors, Weights weights) {
  return EncodeBoxes::apply(boxes, anchors, weights);
}

TORCH_LIBRARY_IMPL(retinanet_fast, CPU, m) {
  m.impl("encode_boxes", encode_boxes);
  m.impl("encode_boxes_backward", encode_boxes_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, CUDA, m) {
  m.impl("encode_boxes", encode_boxes);
  m.impl("encode_boxes_backward", encode_boxes_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, Autograd, m) { m.impl("encode_boxes", encode_boxes_autograd); }

}  // namespace
}  // namespace retinanet_fast
