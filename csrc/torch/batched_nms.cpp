#include <torch/library.h>

#include "torch/common.h"
#include "torch/nms.h"

namespace retinanet_fast {
namespace {

at::Tensor batched_nms(const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& idxs,
                       double iou_threshold) {
  TORCH_CHECK_VALUE(idxs.sizes() == scores.sizes(), "batched_nms: expected idxs ", scores.sizes(), ", got ",
                    idxs.sizes());
  TORCH_CHECK_TYPE(c10::isIntegralType(idxs.scalar_type(), /*includeBool=*/true),
                   "batched_nms: expected idxs of an integer dtype, got ", idxs.scalar_type());
  check_same_device("batched_nms", "idxs", idxs, boxes);
  const at::Tensor classes = idxs.to(at::kLong).contiguous();
  return run_nms("batched_nms", boxes, scores, &classes, iou_threshold);
}

TORCH_LIBRARY_IMPL(retinanet_fast, CPU, m) { m.impl("batched_nms", batched_nms); }
TORCH_LIBRARY_IMPL(retinanet_fast, CUDA, m) { m.impl("batched_nms", batched_nms); }
TORCH_LIBRARY_IMPL(retinanet_fast, Autograd, m) { m.impl("batched_nms", torch::CppFunction::makeFallthrough()); }

}  // namespace
}  // namespace retinanet_fast
