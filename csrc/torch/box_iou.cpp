#include "kernels/box_iou.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "torch/common.h"
#include "torch/memory.h"

namespace retinanet_fast {
namespace {

void check_box_iou(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  check_boxes("box_iou", "boxes1", boxes1);
  check_boxes("box_iou", "boxes2", boxes2);
  check_same_device("box_iou", "boxes2", boxes2, boxes1);
  check_same_dtype("box_iou", "boxes2", boxes2, boxes1);
}

at::Tensor box_iou(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  check_box_iou(boxes1, boxes2);
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  at::Tensor iou = empty_dense_like(first, {first.size(0), second.size(0)});
  if (iou.numel() == 0) return iou;
  const BoxIouParams params{
      .boxes1 = first.const_data_ptr(),
      .boxes2 = second.const_data_ptr(),
      .iou = iou.mutable_data_ptr(),
      .n = first.size(0),
      .m = second.size(0),
      .dtype = dtype_of("box_iou", "boxes1", first),
  };
  run("box_iou", first, params, &CpuKernels::box_iou, RETINANET_FAST_CUDA(box_iou_cuda));
  return iou;
}

at::Tensor box_iou_grad(const at::Tensor& grad_iou, const at::Tensor& boxes, const at::Tensor& others) {
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
      .dtype = dtype_of("box_iou", "boxes1", boxes),
  };
  run("box_iou", boxes, params, &CpuKernels::box_iou_backward, RETINANET_FAST_CUDA(box_iou_backward_cuda));
  return grad;
}

std::tuple<at::Tensor, at::Tensor> box_iou_backward(const at::Tensor& grad_iou, const at::Tensor& boxes1,
                                                    const at::Tensor& boxes2) {
  check_box_iou(boxes1, boxes2);
  check_same_device("box_iou_backward", "grad_iou", grad_iou, boxes1);
  check_same_dtype("box_iou_backward", "grad_iou", grad_iou, boxes1);
  TORCH_CHECK_VALUE(grad_iou.dim() == 2 && grad_iou.size(0) == boxes1.size(0) && grad_iou.size(1) == boxes2.size(0),
                    "box_iou_backward: expected grad_iou [", boxes1.size(0), ", ", boxes2.size(0), "], got ",
                    grad_iou.sizes());
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  return {box_iou_grad(grad_iou, first, second), box_iou_grad(grad_iou.t(), second, first)};
}

class BoxIou : public torch::autograd::Function<BoxIou> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& boxes1,
                            const at::Tensor& boxes2) {
    static const auto op = typed_op<at::Tensor(const at::Tensor&, const at::Tensor&)>("retinanet_fast::box_iou");
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({boxes1, boxes2});
    return op.call(boxes1, boxes2);
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list grads) {
    static const auto op =
        typed_op<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const at::Tensor&)>(
            "retinanet_fast::box_iou_backward");
    const auto saved = context->get_saved_variables();
    auto [grad1, grad2] = op.call(grads[0], saved[0], saved[1]);
    return {grad1, grad2};
  }
};

at::Tensor box_iou_autograd(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  return BoxIou::apply(boxes1, boxes2);
}

TORCH_LIBRARY_IMPL(retinanet_fast, CPU, m) {
  m.impl("box_iou", box_iou);
  m.impl("box_iou_backward", box_iou_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, CUDA, m) {
  m.impl("box_iou", box_iou);
  m.impl("box_iou_backward", box_iou_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, Autograd, m) { m.impl("box_iou", box_iou_autograd); }

}  // namespace
}  // namespace retinanet_fast
