#include "kernels/decode_boxes.h"

#include <tuple>

#include "tensor/box_coding.h"
#include "tensor/memory.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "decode_boxes";

// Sets the parameters that the forward and backward kernels share. `image_size` is (height, width), or empty.
template <class Params>
void set_coding(Params& params, at::ArrayRef<double> weights, double max_log_scale, c10::SymIntArrayRef image_size) {
  std::copy_n(weights.begin(), 4, params.weights);
  params.max_log_scale = max_log_scale;
  params.clip = !image_size.empty();
  if (!params.clip) return;
  params.height = double(image_size[0].expect_int());
  params.width = double(image_size[1].expect_int());
}

at::ScalarType check(const at::Tensor& deltas, const at::Tensor& anchors, at::ArrayRef<double> weights,
                     c10::SymIntArrayRef image_size) {
  TORCH_CHECK_VALUE(image_size.empty() || image_size.size() == 2, kOp,
                    ": expected image_size (height, width) or None, got ", image_size);
  return check_box_coding(kOp, "deltas", deltas, anchors, weights);
}

at::Tensor decode_boxes(const at::Tensor& deltas,   // [N, 4]
                        const at::Tensor& anchors,  // [N, 4]
                        at::ArrayRef<double> weights, double max_log_scale, c10::SymIntArrayRef image_size) {
  const at::ScalarType dtype = check(deltas, anchors, weights, image_size);
  const at::Tensor from_deltas = deltas.to(dtype).contiguous();
  const at::Tensor from_anchors = anchors.to(dtype).contiguous();
  at::Tensor boxes = empty_dense_like(from_deltas);
  DecodeBoxesParams params{
      .deltas = from_deltas.const_data_ptr(),
      .anchors = from_anchors.const_data_ptr(),
      .boxes = boxes.mutable_data_ptr(),
      .n = from_deltas.size(0),
  };
  params.dtype = dtype_of(kOp, "deltas", from_deltas);
  set_coding(params, weights, max_log_scale, image_size);
  launch(kOp, from_deltas, params, &CpuKernels::decode_boxes, RETINANET_FAST_CUDA_LAUNCHER(decode_boxes_cuda));
  return boxes;
}

std::tuple<at::Tensor, at::Tensor> decode_boxes_backward(const at::Tensor& grad_boxes,  // [N, 4]
                                                         const at::Tensor& deltas,      // [N, 4]
                                                         const at::Tensor& anchors,     // [N, 4]
                                                         at::ArrayRef<double> weights, double max_log_scale,
                                                         c10::SymIntArrayRef image_size) {
  const at::ScalarType dtype = check(deltas, anchors, weights, image_size);
  check_gradient(kOp, "grad_boxes", grad_boxes, deltas);
  const at::Tensor from_grad = grad_boxes.to(dtype).contiguous();
  const at::Tensor from_deltas = deltas.to(dtype).contiguous();
  const at::Tensor from_anchors = anchors.to(dtype).contiguous();
  at::Tensor grad_deltas = empty_dense_like(from_deltas);
  at::Tensor grad_anchors = empty_dense_like(from_anchors);
  DecodeBoxesBackwardParams params{
      .grad_boxes = from_grad.const_data_ptr(),
      .deltas = from_deltas.const_data_ptr(),
      .anchors = from_anchors.const_data_ptr(),
      .grad_deltas = grad_deltas.mutable_data_ptr(),
      .grad_anchors = grad_anchors.mutable_data_ptr(),
      .n = from_deltas.size(0),
  };
  params.dtype = dtype_of(kOp, "deltas", from_deltas);
  set_coding(params, weights, max_log_scale, image_size);
  launch(kOp, from_deltas, params, &CpuKernels::decode_boxes_backward,
         RETINANET_FAST_CUDA_LAUNCHER(decode_boxes_backward_cuda));
  return {grad_deltas.to(deltas.scalar_type()), grad_anchors.to(anchors.scalar_type())};
}

}  // namespace

namespace autograd {

class DecodeBoxes : public torch::autograd::Function<DecodeBoxes> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& deltas,
                            const at::Tensor& anchors, at::ArrayRef<double> weights, double max_log_scale,
                            c10::SymIntArrayRef image_size) {
    static const auto op = dispatcher_handle<decode_boxes>("decode_boxes");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({saveable(deltas), saveable(anchors)});
    context->saved_data["weights"] = weights.vec();
    context->saved_data["max_log_scale"] = max_log_scale;
    context->saved_data["image_size"] = image_size.vec();
    return op.call(deltas, anchors, weights, max_log_scale, image_size);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = dispatcher_handle<decode_boxes_backward>("decode_boxes_backward");
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    const auto weights = data["weights"].toDoubleVector();
    const auto image_size = data["image_size"].toSymIntVector();
    auto [grad_deltas, grad_anchors] =
        op.call(grads[0], saved[0], saved[1], weights, data["max_log_scale"].toDouble(), image_size);
    return once_differentiable(kOp, {saved[0], saved[1], grads[0]},
                               {grad_deltas, grad_anchors, at::Tensor(), at::Tensor(), at::Tensor()});
  }
};

}  // namespace autograd

namespace {

at::Tensor decode_boxes_autograd(const at::Tensor& deltas, const at::Tensor& anchors, at::ArrayRef<double> weights,
                                 double max_log_scale, c10::SymIntArrayRef image_size) {
  if (has_tangent(deltas) || has_tangent(anchors)) {
    static const auto op = dispatcher_handle<decode_boxes>("decode_boxes");
    return call_transformable(op, deltas, anchors, weights, max_log_scale, image_size);
  }
  return autograd::DecodeBoxes::apply(deltas, anchors, weights, max_log_scale, image_size);
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // The boxes [N, 4] that deltas make of anchors, clipped to image_size (height, width) unless that is empty.
  define_op<decode_boxes, decode_boxes_autograd>(
      m,
      "decode_boxes(Tensor deltas, Tensor anchors, float[] weights, float max_log_scale, SymInt[] image_size) "
      "-> Tensor");
  define_op<decode_boxes_backward>(
      m,
      "decode_boxes_backward(Tensor grad_boxes, Tensor deltas, Tensor anchors, float[] weights, float max_log_scale, "
      "SymInt[] image_size) -> (Tensor, Tensor)");
}

}  // namespace
}  // namespace retinanet_fast
