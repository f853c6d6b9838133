#include "tensor/checks.h"
#include "tensor/nms.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "batched_nms";

// Different integers for different classes. Floating point numbers, which torchvision takes too, are compared by their
// bits: of the two zeros one becomes the other, and the upper bits, where small numbers differ, are mixed into the
// lower ones, by which kernels tell classes apart quickly.
at::Tensor class_indices(const at::Tensor& idxs) {
  if (!idxs.is_floating_point()) return idxs.to(at::kLong).contiguous();
  const at::Tensor bits = idxs.to(at::kDouble).add(0.0).contiguous().view(at::kLong);
  return bits.bitwise_xor(bits.bitwise_right_shift(46));
}

at::Tensor batched_nms(const at::Tensor& boxes,   // [N, 4]
                       const at::Tensor& scores,  // [N]
                       const at::Tensor& idxs,    // [N]
                       double iou_threshold) {
  TORCH_CHECK_VALUE(idxs.sizes() == scores.sizes(), kOp, ": expected idxs ", scores.sizes(), ", got ", idxs.sizes());
  TORCH_CHECK_TYPE(!idxs.is_complex(), kOp, ": expected idxs of an integer or floating point dtype, got ",
                   idxs.scalar_type());
  check_same_device(kOp, "idxs", idxs, boxes);
  return suppress(kOp, boxes, scores, class_indices(idxs), iou_threshold);
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // Like nms, but a box suppresses only boxes of its own class in idxs.
  define_op<batched_nms>(m, "batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
}

}  // namespace
}  // namespace retinanet_fast
