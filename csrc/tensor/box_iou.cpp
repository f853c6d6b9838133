#include "kernels/box_iou.h"

#include <tuple>

#include "tensor/checks.h"
#include "tensor/memory.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "box_iou";

bool is_integral(const at::Tensor& boxes) { return c10::isIntegralType(boxes.scalar_type(), /*includeBool=*/false); }

void check(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  check_boxes(kOp, "boxes1", boxes1);
  check_boxes(kOp, "boxes2", boxes2);
  check_same_device(kOp, "boxes2", boxes2, boxes1);
}

// Narrow boxes have IoUs in float32, as torchvision's: rounded to bfloat16 an IoU would be off by up to 0.002. Of boxes
// of two dtypes the wider counts.
at::ScalarType iou_dtype(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  return at::promote_types(at::promote_types(boxes1.scalar_type(), boxes2.scalar_type()), at::kFloat);
}

at::Tensor widened(const at::Tensor& boxes, at::ScalarType dtype) { return boxes.to(dtype).contiguous(); }

// Integers as the floating point numbers that they are computed as, other boxes themselves. Areas of whole pixels are
// exact in float64, and a quotient of two of them is rounded to float32 as torchvision's.
at::Tensor floating(const at::Tensor& boxes, const at::Tensor& others) {
  if (!is_integral(boxes)) return boxes;
  return boxes.to(is_integral(others) ? at::kDouble : iou_dtype(boxes, others));
}

at::Tensor box_iou(const at::Tensor& boxes1,    // [N, 4]
                   const at::Tensor& boxes2) {  // [M, 4]
  const at::ScalarType dtype = iou_dtype(boxes1, boxes2);
  if (is_integral(boxes1) || is_integral(boxes2)) {
    return box_iou(floating(boxes1, boxes2), floating(boxes2, boxes1)).to(dtype);
  }
  check(boxes1, boxes2);
  const at::Tensor first = widened(boxes1, dtype);
  const at::Tensor second = widened(boxes2, dtype);
  at::Tensor iou = empty_dense_like(first, {first.size(0), second.size(0)});
  if (iou.numel() == 0) return iou;
  const BoxIouParams params{
      .boxes1 = first.const_data_ptr(),
      .boxes2 = second.const_data_ptr(),
      .iou = iou.mutable_data_ptr(),
      .n = first.size(0),
      .m = second.size(0),
      .dtype = dtype_of(kOp, "boxes1", first),
  };
  launch(kOp, first, params, &CpuKernels::box_iou, RETINANET_FAST_CUDA_LAUNCHER(box_iou_cuda));
  return iou;
}

at::Tensor gradient_by_rows(const at::Tensor& grad_iou,  // [N, M]
                            const at::Tensor& boxes,     // [N, 4]
                            const at::Tensor& others) {  // [M, 4]
  at::Tensor grad = at::empty_like(boxes);
  if (grad.numel() == 0) return grad;
  if (others.numel() == 0) return grad.zero_();
  const BoxIouBackwardParams params{
      .boxes1 = boxes.const_data_ptr(),
      .boxes2 = others.const_data_ptr(),
      .grad_iou = grad_iou.const_data_ptr(),
      .grad_boxes1 = grad.mutable_data_ptr(),
      .n = boxes.size(0),
      .m = others.size(0),
      .stride_n = grad_iou.stride(0),
      .stride_m = grad_iou.stride(1),
      .dtype = dtype_of(kOp, "boxes1", boxes),
  };
  launch(kOp, boxes, params, &CpuKernels::box_iou_backward, RETINANET_FAST_CUDA_LAUNCHER(box_iou_backward_cuda));
  return grad;
}

std::tuple<at::Tensor, at::Tensor> box_iou_backward(const at::Tensor& grad_iou,  // [N, M]
                                                    const at::Tensor& boxes1,    // [N, 4]
                                                    const at::Tensor& boxes2) {  // [M, 4]
  check(boxes1, boxes2);
  const at::ScalarType dtype = iou_dtype(boxes1, boxes2);
  const at::Tensor first = widened(boxes1, dtype);
  const at::Tensor second = widened(boxes2, dtype);
  check_same_device(kOp, "grad_iou", grad_iou, first);
  check_same_dtype(kOp, "grad_iou", grad_iou, first);
  TORCH_CHECK_VALUE(grad_iou.dim() == 2 && grad_iou.size(0) == boxes1.size(0) && grad_iou.size(1) == boxes2.size(0),
                    kOp, ": expected grad_iou [", boxes1.size(0), ", ", boxes2.size(0), "], got ", grad_iou.sizes());
  return {gradient_by_rows(grad_iou, first, second).to(boxes1.scalar_type()),
          gradient_by_rows(grad_iou.t(), second, first).to(boxes2.scalar_type())};
}

}  // namespace

namespace autograd {

class BoxIou : public torch::autograd::Function<BoxIou> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& boxes1,
                            const at::Tensor& boxes2) {
    static const auto op = dispatcher_handle<box_iou>("box_iou");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({saveable(boxes1), saveable(boxes2)});
    return op.call(boxes1, boxes2);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    static const auto op = dispatcher_handle<box_iou_backward>("box_iou_backward");
    const auto saved = context->get_saved_variables();
    auto [grad1, grad2] = op.call(grads[0], saved[0], saved[1]);
    return once_differentiable(kOp, {saved[0], saved[1], grads[0]}, {grad1, grad2});
  }
};

}  // namespace autograd

namespace {

at::Tensor box_iou_autograd(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  static const auto op = dispatcher_handle<box_iou>("box_iou");
  if (has_tangent(boxes1) || has_tangent(boxes2)) return call_transformable(op, boxes1, boxes2);
  if (!needs_grad(boxes1, boxes2)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return op.call(boxes1, boxes2);
  }
  return autograd::BoxIou::apply(floating(boxes1, boxes2), floating(boxes2, boxes1));
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // Pairwise IoU of xyxy boxes, [N, 4] and [M, 4] -> [N, M].
  define_op<box_iou, box_iou_autograd>(m, "box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  define_op<box_iou_backward>(m, "box_iou_backward(Tensor grad_iou, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)");
}

}  // namespace
}  // namespace retinanet_fast
