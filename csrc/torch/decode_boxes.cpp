#include "kernels/decode_boxes.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "torch/box_coding.h"
#include "torch/common.h"
#include "torch/memory.h"

namespace retinanet_fast {
namespace {

using Weights = at::ArrayRef<double>;
// image_size is empty or (height, width).
using Forward = at::Tensor(const at::Tensor&, const at::Tensor&, Weights, double, c10::SymIntArrayRef);
using Backward = std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const at::Tensor&, Weights,
                                                    double, c10::SymIntArrayRef);

at::ScalarType check_decode_boxes(const at::Tensor& deltas, const at::Tensor& anchors, Weights weights,
                                  at::IntArrayRef image_size) {
  TORCH_CHECK_VALUE(image_size.empty() || image_size.size() == 2,
                    "decode_boxes: expected image_size (height, width) or None, got ", image_size);
  return check_box_coding("decode_boxes", "deltas", deltas, anchors, weights);
}

at::Tensor decode_boxes(const at::Tensor& deltas, const at::Tensor& anchors, Weights weights, double max_log_scale,
                        at::IntArrayRef image_size) {
  const at::ScalarType dtype = check_decode_boxes(deltas, anchors, weights, image_size);
  const at::Tensor codes = deltas.to(dtype).contiguous();
  const at::Tensor priors = anchors.to(dtype).contiguous();
  at::Tensor boxes = empty_dense_like(codes);
  const bool clip = !image_size.empty();
  DecodeBoxesParams params{
      .deltas = codes.const_data_ptr(),
      .anchors = priors.const_data_ptr(),
      .boxes = boxes.mutable_data_ptr(),
      .n = codes.size(0),
      .weights = {weights[0], weights[1], weights[2], weights[3]},
      .max_log_scale = max_log_scale,
      .clip = clip,
      .height = clip ? double(image_size[0]) : 0,
      .width = clip ? double(image_size[1]) : 0,
      .dtype = dtype_of("decode_boxes", "deltas", codes),
  };
  run("decode_boxes", codes, params, &CpuKernels::decode_boxes, RETINANET_FAST_CUDA(decode_boxes_cuda));
  return boxes;
}

std::tuple<at::Tensor, at::Tensor> decode_boxes_backward(const at::Tensor& grad_boxes, const at::Tensor& deltas,
                                                         const at::Tensor& anchors, Weights weights,
                                                         double max_log_scale, at::IntArrayRef image_size) {
  const at::ScalarType dtype = check_decode_boxes(deltas, anchors, weights, image_size);
  check_gradient("decode_boxes_backward", "grad_boxes", grad_boxes, deltas);
  const at::Tensor upstream = grad_boxes.to(dtype).contiguous();
  const at::Tensor codes = deltas.to(dtype).contiguous();
  const at::Tensor priors = anchors.to(dtype).contiguous();
  at::Tensor grad_deltas = empty_dense_like(codes);
  at::Tensor grad_anchors = empty_dense_like(priors);
  const bool clip = !image_size.empty();
  DecodeBoxesBackwardParams params{
      .grad_boxes = upstream.const_data_ptr(),
      .deltas = codes.const_data_ptr(),
      .anchors = priors.const_data_ptr(),
      .grad_deltas = grad_deltas.mutable_data_ptr(),
      .grad_anchors = grad_anchors.mutable_data_ptr(),
      .n = codes.size(0),
      .weights = {weights[0], weights[1], weights[2], weights[3]},
      .max_log_scale = max_log_scale,
      .clip = clip,
      .height = clip ? double(image_size[0]) : 0,
      .width = clip ? double(image_size[1]) : 0,
      .dtype = dtype_of("decode_boxes", "deltas", codes),
  };
  run("decode_boxes", codes, params, &CpuKernels::decode_boxes_backward,
      RETINANET_FAST_CUDA(decode_boxes_backward_cuda));
  return {grad_deltas.to(deltas.scalar_type()), grad_anchors.to(anchors.scalar_type())};
}

class DecodeBoxes : public torch::autograd::Function<DecodeBoxes> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& deltas,
                            const at::Tensor& anchors, Weights weights, double max_log_scale,
                            c10::SymIntArrayRef image_size) {
    static const auto op = typed_op<Forward>("retinanet_fast::decode_boxes");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({deltas, anchors});
    context->saved_data["weights"] = weights.vec();
    context->saved_data["max_log_scale"] = max_log_scale;
    context->saved_data["image_size"] = image_size.vec();
    return op.call(deltas, anchors, weights, max_log_scale, image_size);
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list grads) {
    static const auto op = typed_op<Backward>("retinanet_fast::decode_boxes_backward");
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    const auto weights = data["weights"].toDoubleVector();
    const auto image_size = data["image_size"].toSymIntVector();
    auto [grad_deltas, grad_anchors] =
        op.call(grads[0], saved[0], saved[1], weights, data["max_log_scale"].toDouble(), image_size);
    return {grad_deltas, grad_anchors, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor decode_boxes_autograd(const at::Tensor& deltas, const at::Tensor& anchors, Weights weights,
                                 double max_log_scale, c10::SymIntArrayRef image_size) {
  return DecodeBoxes::apply(deltas, anchors, weights, max_log_scale, image_size);
}

TORCH_LIBRARY_IMPL(retinanet_fast, CPU, m) {
  m.impl("decode_boxes", decode_boxes);
  m.impl("decode_boxes_backward", decode_boxes_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, CUDA, m) {
  m.impl("decode_boxes", decode_boxes);
  m.impl("decode_boxes_backward", decode_boxes_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, Autograd, m) { m.impl("decode_boxes", decode_boxes_autograd); }

}  // namespace
}  // namespace retinanet_fast
