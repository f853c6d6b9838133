#include "kernels/box_perimeter.h"

#include "tensor/checks.h"
#include "tensor/memory.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "box_perimeter";

at::Tensor box_perimeter(const at::Tensor& boxes) {  // [N, 4]
  check_boxes(kOp, "boxes", boxes);
  const at::Tensor dense = boxes.contiguous();
  at::Tensor perimeters = empty_dense_like(dense, {dense.size(0)});
  const BoxPerimeterParams params{
      .boxes = dense.const_data_ptr(),
      .perimeters = perimeters.mutable_data_ptr(),
      .n = dense.size(0),
      .dtype = dtype_of(kOp, "boxes", dense),
  };
  launch(kOp, dense, params, &CpuKernels::box_perimeter, RETINANET_FAST_CUDA_LAUNCHER(box_perimeter_cuda));
  return perimeters;
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // Perimeters of xyxy boxes, [N, 4] -> [N].
  define_op<box_perimeter>(m, "box_perimeter(Tensor boxes) -> Tensor");
}

}  // namespace
}  // namespace retinanet_fast
