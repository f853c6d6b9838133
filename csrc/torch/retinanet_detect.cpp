#include "kernels/retinanet_detect.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>

#include "torch/anchors.h"
#include "torch/common.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "retinanet_detect";

void check_levels(at::TensorList cls_logits, at::TensorList bbox_regression) {
  TORCH_CHECK_VALUE(!cls_logits.empty() && cls_logits.size() <= kMaxLevels, kOp, ": expected 1 to ", kMaxLevels,
                    " levels of cls_logits, got ", cls_logits.size());
  TORCH_CHECK_VALUE(bbox_regression.size() == cls_logits.size(), kOp, ": expected bbox_regression of ",
                    cls_logits.size(), " levels as cls_logits, got ", bbox_regression.size());
  const at::Tensor& first = cls_logits[0];
  const at::Tensor& first_deltas = bbox_regression[0];
  TORCH_CHECK_VALUE(first.dim() == 4, kOp, ": expected cls_logits[0] [B, K * C, H, W], got ", first.sizes());
  TORCH_CHECK_VALUE(first_deltas.dim() == 4, kOp, ": expected bbox_regression[0] [B, K * 4, H, W], got ",
                    first_deltas.sizes());
  const int64_t channels = first.size(1);
  const int64_t shapes = first_deltas.size(1) / 4;
  TORCH_CHECK_VALUE(shapes > 0 && first_deltas.size(1) == 4 * shapes && channels > 0 && channels % shapes == 0, kOp,
                    ": expected K * C channels of cls_logits and K * 4 of bbox_regression, got ", channels, " and ",
                    first_deltas.size(1));
  for (size_t l = 0; l < cls_logits.size(); ++l) {
    const at::Tensor& logits = cls_logits[l];
    const at::Tensor& deltas = bbox_regression[l];
    TORCH_CHECK_VALUE(logits.dim() == 4 && logits.size(0) == first.size(0) && logits.size(1) == channels, kOp,
                      ": expected cls_logits[", l, "] [", first.size(0), ", ", channels, ", H, W], got ",
                      logits.sizes());
    TORCH_CHECK_VALUE(deltas.dim() == 4 && deltas.size(0) == first.size(0) && deltas.size(1) == 4 * shapes &&
                          deltas.size(2) == logits.size(2) && deltas.size(3) == logits.size(3),
                      kOp, ": expected bbox_regression[", l, "] [", first.size(0), ", ", 4 * shapes, ", ",
                      logits.size(2), ", ", logits.size(3), "], got ", deltas.sizes());
    check_same_dtype(kOp, "every level of cls_logits", logits, first);
    check_same_dtype(kOp, "every level of bbox_regression", deltas, first_deltas);
    check_same_device(kOp, "every level of cls_logits", logits, first);
    check_same_device(kOp, "every level of bbox_regression", deltas, first);
  }
}

// `anchors` holds [L, K, 4] shapes that `strides` repeat over the grid, or, without strides, [A, 4] boxes.
void check_anchors(const at::Tensor& anchors, at::IntArrayRef strides, const RetinanetDetectParams& p,
                   int64_t num_anchors) {
  if (strides.empty()) {
    TORCH_CHECK_VALUE(anchors.dim() == 2 && anchors.size(0) == num_anchors && anchors.size(1) == 4, kOp,
                      ": expected anchors [", num_anchors, ", 4], got ", anchors.sizes());
    return;
  }
  TORCH_CHECK_VALUE(anchors.dim() == 3 && anchors.size(0) == p.head.num_levels &&
                        anchors.size(1) == p.head.anchors_per_cell && anchors.size(2) == 4 &&
                        int64_t(strides.size()) == 2 * p.head.num_levels,
                    kOp, ": expected base anchors [", p.head.num_levels, ", ", p.head.anchors_per_cell,
                    ", 4] and as many pairs of strides, got ", anchors.sizes(), " and ", strides.size(), " strides");
}

SoftNms soft_nms_of(c10::string_view name) {
  if (name.empty()) return SoftNms::kNone;
  if (name == "linear") return SoftNms::kLinear;
  TORCH_CHECK_VALUE(name == "gaussian", kOp, ": expected soft_nms None, 'linear' or 'gaussian', got '", name, "'");
  return SoftNms::kGaussian;
}

// Sets the levels of `p`; returns the number of anchors.
int64_t set_levels(RetinanetDetectParams& p, at::TensorList cls_logits, at::TensorList bbox_regression) {
  int64_t num_anchors = 0;
  for (int64_t l = 0; l < p.head.num_levels; ++l) {
    const at::Tensor& logits = cls_logits[l];
    const at::Tensor& deltas = bbox_regression[l];
    HeadLevel& level = p.head.levels[l];
    level.logits = logits.const_data_ptr();
    level.deltas = deltas.const_data_ptr();
    level.logits_strides = {logits.stride(0), logits.stride(1), logits.stride(2), logits.stride(3)};
    level.deltas_strides = {deltas.stride(0), deltas.stride(1), deltas.stride(2), deltas.stride(3)};
    level.height = logits.size(2);
    level.width = logits.size(3);
    level.first_anchor = num_anchors;
    num_anchors += level.height * level.width * p.head.anchors_per_cell;
  }
  TORCH_CHECK_VALUE(num_anchors * p.head.num_classes < int64_t(1) << 32, kOp,
                    ": expected fewer than 2^32 logits an image, got ", num_anchors * p.head.num_classes);
  return num_anchors;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> retinanet_detect(
    at::TensorList cls_logits, at::TensorList bbox_regression, const at::Tensor& anchors, at::IntArrayRef strides,
    const at::Tensor& image_sizes, double score_thresh, const std::optional<at::Tensor>& class_thresh,
    int64_t topk_candidates, double nms_thresh, int64_t detections_per_img, at::ArrayRef<double> box_weights,
    c10::string_view soft_nms, double soft_nms_sigma) {
  check_levels(cls_logits, bbox_regression);
  const at::Tensor& first = cls_logits[0];
  TORCH_CHECK_VALUE(topk_candidates >= 1, kOp, ": expected topk_candidates >= 1, got ", topk_candidates);
  TORCH_CHECK_VALUE(detections_per_img >= 1, kOp, ": expected detections_per_img >= 1, got ", detections_per_img);
  TORCH_CHECK_VALUE(box_weights.size() == 4, kOp, ": expected 4 box_weights, got ", box_weights.size());
  TORCH_CHECK_VALUE(soft_nms_sigma > 0, kOp, ": expected soft_nms_sigma > 0, got ", soft_nms_sigma);

  RetinanetDetectParams p{};
  p.head.num_levels = int64_t(cls_logits.size());
  p.head.batch_size = first.size(0);
  p.head.anchors_per_cell = bbox_regression[0].size(1) / 4;
  p.head.num_classes = first.size(1) / p.head.anchors_per_cell;
  const int64_t num_anchors = set_levels(p, cls_logits, bbox_regression);
  check_anchors(anchors, strides, p, num_anchors);
  check_same_device(kOp, "anchors", anchors, first);
  TORCH_CHECK_VALUE(image_sizes.dim() == 2 && image_sizes.size(0) == p.head.batch_size && image_sizes.size(1) == 2, kOp,
                    ": expected image_sizes [", p.head.batch_size, ", 2], got ", image_sizes.sizes());
  TORCH_CHECK_TYPE(c10::isIntegralType(image_sizes.scalar_type(), /*includeBool=*/false), kOp,
                   ": expected image_sizes of an integer dtype, got ", image_sizes.scalar_type());
  if (!image_sizes.is_cpu()) check_same_device(kOp, "image_sizes", image_sizes, first);

  TORCH_CHECK_VALUE(uses_cpu_kernels(first) || p.head.batch_size * p.head.num_levels <= 65535, kOp,
                    ": expected at most 65535 images times levels on CUDA, got ",
                    p.head.batch_size * p.head.num_levels);

  const c10::DeviceGuard guard(first.device());
  std::vector<int64_t> grid_sizes;
  for (int64_t l = 0; l < p.head.num_levels && !strides.empty(); ++l) {
    grid_sizes.insert(grid_sizes.end(), {p.head.levels[l].height, p.head.levels[l].width});
  }
  at::Tensor anchor_values;
  p.anchors = anchors_of(kOp, anchors, strides, grid_sizes, first.device(), anchor_values);
  const at::Tensor sizes = image_sizes.to(at::kLong).contiguous();
  at::Tensor thresholds;
  if (class_thresh.has_value()) {
    TORCH_CHECK_VALUE(class_thresh->dim() == 1 && class_thresh->size(0) == p.head.num_classes, kOp,
                      ": expected score_thresh, a tensor, [", p.head.num_classes, "], got ", class_thresh->sizes());
    check_same_device(kOp, "score_thresh", *class_thresh, first);
    thresholds = class_thresh->to(at::kFloat).contiguous();
  }
  const auto options = first.options().dtype(at::kFloat);
  at::Tensor boxes = at::empty({p.head.batch_size, detections_per_img, 4}, options);
  at::Tensor scores = at::empty({p.head.batch_size, detections_per_img}, options);
  at::Tensor labels = at::empty({p.head.batch_size, detections_per_img}, options.dtype(at::kLong));
  at::Tensor counts = at::empty({p.head.batch_size}, options.dtype(at::kLong));
  if (p.head.batch_size == 0) return {boxes, scores, labels, counts};

  p.image_sizes = sizes.const_data_ptr<int64_t>();
  p.image_sizes_on_host = sizes.is_cpu();
  p.score_thresh = float(score_thresh);
  p.class_thresh = thresholds.defined() ? thresholds.const_data_ptr<float>() : nullptr;
  p.nms_thresh = nms_thresh;
  p.soft_nms = soft_nms_of(soft_nms);
  p.sigma = soft_nms_sigma;
  p.topk = topk_candidates;
  p.max_detections = detections_per_img;
  for (int i = 0; i < 4; ++i) p.weights[i] = box_weights[i];
  p.max_log_scale = std::log(1000.0 / 16.0);
  p.boxes = boxes.mutable_data_ptr<float>();
  p.scores = scores.mutable_data_ptr<float>();
  p.labels = labels.mutable_data_ptr<int64_t>();
  p.counts = counts.mutable_data_ptr<int64_t>();
  p.head.logits_dtype = dtype_of(kOp, "cls_logits", first);
  p.head.deltas_dtype = dtype_of(kOp, "bbox_regression", bbox_regression[0]);
  const size_t bytes =
      uses_cpu_kernels(first) ? retinanet_detect_cpu_workspace_bytes(p) : retinanet_detect_cuda_workspace_bytes(p);
  const at::Tensor workspace = at::empty({int64_t(bytes)}, options.dtype(at::kByte));
  p.workspace = workspace.mutable_data_ptr();
  run(kOp, first, p, &CpuKernels::retinanet_detect, RETINANET_FAST_CUDA(retinanet_detect_cuda));
  return {boxes, scores, labels, counts};
}

TORCH_LIBRARY_IMPL(retinanet_fast, CPU, m) { m.impl("retinanet_detect", retinanet_detect); }
TORCH_LIBRARY_IMPL(retinanet_fast, CUDA, m) { m.impl("retinanet_detect", retinanet_detect); }
TORCH_LIBRARY_IMPL(retinanet_fast, Autograd, m) { m.impl("retinanet_detect", torch::CppFunction::makeFallthrough()); }

}  // namespace
}  // namespace retinanet_fast
