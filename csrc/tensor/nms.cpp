#include "tensor/nms.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>

#include <cstring>

#include "kernels/nms.h"
#include "tensor/checks.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

void check(const char* op, const at::Tensor& boxes, const at::Tensor& scores) {
  check_boxes(op, "boxes", boxes);
  TORCH_CHECK_VALUE(scores.dim() == 1 && scores.size(0) == boxes.size(0), op, ": expected scores [", boxes.size(0),
                    "], got ", scores.sizes());
  check_same_device(op, "scores", scores, boxes);
  dtype_of(op, "scores", scores);
  TORCH_CHECK_VALUE(boxes.size(0) < int64_t(1) << 31, op, ": expected fewer than 2^31 boxes, got ", boxes.size(0));
}

at::Tensor nms(const at::Tensor& boxes,   // [N, 4]
               const at::Tensor& scores,  // [N]
               double iou_threshold) {
  return suppress("nms", boxes, scores, at::Tensor(), iou_threshold);
}

}  // namespace

at::Tensor suppress(const char* op, const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& classes,
                    double iou_threshold) {
  check(op, boxes, scores);
  const int64_t n = boxes.size(0);
  const auto indices = boxes.options().dtype(at::kLong);
  if (n == 0) return at::empty({0}, indices);

  // Where the dtypes differ, as autocast leaves them, both are widened, which changes no value.
  const at::ScalarType common = at::promote_types(boxes.scalar_type(), scores.scalar_type());
  const at::Tensor corners = boxes.to(common).contiguous();
  const at::Tensor values = scores.to(common).contiguous();
  const bool on_cpu = uses_cpu_kernels(op, boxes);
  const bool kernel_sorts = on_cpu || n <= kNmsCounted;
  const at::Tensor order =
      kernel_sorts ? at::Tensor() : std::get<1>(at::sort(values, /*stable=*/true, /*dim=*/0, /*descending=*/true));
  at::Tensor kept_and_count = at::empty({n + 1}, indices);
  size_t bytes = 0;
  NmsParams params{
      .boxes = corners.const_data_ptr(),
      .scores = values.const_data_ptr(),
      .classes = classes.defined() ? classes.const_data_ptr<int64_t>() : nullptr,
      .order = order.defined() ? order.const_data_ptr<int64_t>() : nullptr,
      .workspace = nullptr,
      .workspace_bytes = &bytes,
      .kept = kept_and_count.mutable_data_ptr<int64_t>(),
      .count = kept_and_count.mutable_data_ptr<int64_t>() + n,
      .n = n,
      .iou_threshold = iou_threshold,
      .dtype = dtype_of(op, "boxes", corners),
  };
  const auto run = [&] { launch(op, corners, params, &CpuKernels::nms, RETINANET_FAST_CUDA_LAUNCHER(nms_cuda)); };
  run();  // without a workspace: says how large it must be
  const at::Tensor workspace = at::empty({int64_t(bytes)}, boxes.options().dtype(at::kByte));
  params.workspace = workspace.mutable_data_ptr();
  run();
  if (!boxes.is_cpu()) {
    const int64_t count = kept_and_count[n].item<int64_t>();  // the one synchronisation
    // Few boxes stay in the larger memory; many are copied, so that it can be freed.
    return n <= kNmsRound ? kept_and_count.resize_({count}) : kept_and_count.narrow(0, 0, count).clone();
  }
  const at::Tensor kept = at::empty({*params.count}, indices);
  std::memcpy(kept.mutable_data_ptr(), params.kept, kept.nbytes());
  return kept;
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // Indices (int64) of the boxes that non-maximum suppression keeps, best first.
  define_op<nms>(m, "nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
}

}  // namespace retinanet_fast
