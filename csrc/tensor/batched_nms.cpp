#include "tensor/checks.h"
#include "tensor/nms.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "batched_nms";

at::Tensor batched_nms(const at::Tensor& boxes,   // [N, 4]
                       const at::Tensor& scores,  // [N]
                       const at::Tensor& idxs,    // [N]
                       double iou_threshold) {
  TORCH_CHECK_VALUE(idxs.sizes() == scores.sizes(), kOp, ": expected idxs ", scores.sizes(), ", got ", idxs.sizes());
  TORCH_CHECK_TYPE(c10::isIntegralType(idxs.scalar_type(), /*includeBool=*/true), kOp,
                   ": expected idxs of an integer dtype, got ", idxs.scalar_type());
  check_same_device(kOp, "idxs", idxs, boxes);
  return suppress(kOp, boxes, scores, idxs.to(at::kLong).contiguous(), iou_threshold);
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // Like nms, but a box suppresses only boxes of its own class in idxs.
  define_op<batched_nms>(m, "batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
}

}  // namespace
}  // namespace retinanet_fast
