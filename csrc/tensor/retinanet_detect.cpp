#include "kernels/retinanet_detect.h"

#include <ATen/ops/empty.h>

#include <optional>
#include <tuple>

#include "tensor/box_coding.h"
#include "tensor/checks.h"
#include "tensor/head_levels.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "retinanet_detect";

SoftNms parse_soft_nms(c10::string_view name) {
  if (name.empty()) return SoftNms::kNone;
  if (name == "linear") return SoftNms::kLinear;
  TORCH_CHECK_VALUE(name == "gaussian", kOp, ": expected soft_nms None, 'linear' or 'gaussian', got '", name, "'");
  return SoftNms::kGaussian;
}

// The image sizes as int64, on the host or on the device of `like`.
at::Tensor image_sizes_of(const at::Tensor& image_sizes, int64_t batch_size, const at::Tensor& like) {
  TORCH_CHECK_VALUE(image_sizes.dim() == 2 && image_sizes.size(0) == batch_size && image_sizes.size(1) == 2, kOp,
                    ": expected image_sizes [", batch_size, ", 2], got ", image_sizes.sizes());
  TORCH_CHECK_TYPE(c10::isIntegralType(image_sizes.scalar_type(), /*includeBool=*/false), kOp,
                   ": expected image_sizes of an integer dtype, got ", image_sizes.scalar_type());
  if (!image_sizes.is_cpu()) check_same_device(kOp, "image_sizes", image_sizes, like);
  return image_sizes.to(at::kLong).contiguous();
}

at::Tensor class_thresholds_of(const std::optional<at::Tensor>& class_thresh, int64_t num_classes,
                               const at::Tensor& like) {
  if (!class_thresh.has_value()) return at::Tensor();
  TORCH_CHECK_VALUE(class_thresh->dim() == 1 && class_thresh->size(0) == num_classes, kOp,
                    ": expected score_thresh, a tensor, [", num_classes, "], got ", class_thresh->sizes());
  check_same_device(kOp, "score_thresh", *class_thresh, like);
  return class_thresh->to(at::kFloat).contiguous();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> retinanet_detect(
    at::TensorList cls_logits,       // L of [B, K * C, H, W]
    at::TensorList bbox_regression,  // L of [B, K * 4, H, W]
    const at::Tensor& anchors,       // [A, 4], or a grid's base anchors [L, K, 4]
    c10::SymIntArrayRef strides,     // [2 L], or empty
    c10::SymIntArrayRef grid_sizes,  // [2 L], or empty
    const at::Tensor& image_sizes,   // [B, 2] height, width
    double score_thresh,
    const std::optional<at::Tensor>& class_thresh,  // [C]
    int64_t topk_candidates, double nms_thresh, int64_t detections_per_img, at::ArrayRef<double> box_weights,
    c10::string_view soft_nms, double soft_nms_sigma) {
  RetinanetDetectParams p{};
  p.head = head_levels_of(kOp, cls_logits, bbox_regression);
  const at::Tensor& first = cls_logits[0];
  const AnchorsOf held =
      anchors_of(kOp, anchors, C10_AS_INTARRAYREF_SLOW(strides), C10_AS_INTARRAYREF_SLOW(grid_sizes), first);
  check_anchors_of_head(kOp, held.anchors, p.head);
  check_box_weights(kOp, "box_weights", box_weights);
  p.soft_nms = parse_soft_nms(soft_nms);
  TORCH_CHECK_VALUE(topk_candidates >= 1, kOp, ": expected topk_candidates >= 1, got ", topk_candidates);
  TORCH_CHECK_VALUE(detections_per_img >= 1, kOp, ": expected detections_per_img >= 1, got ", detections_per_img);
  TORCH_CHECK_VALUE(soft_nms_sigma > 0, kOp, ": expected soft_nms_sigma > 0, got ", soft_nms_sigma);
  const int64_t logits = held.anchors.num_anchors * p.head.num_classes;
  TORCH_CHECK_VALUE(logits < int64_t(1) << 32, kOp, ": expected fewer than 2^32 logits per image, got ", logits);
  TORCH_CHECK_VALUE(uses_cpu_kernels(kOp, first) || p.head.batch_size * p.head.num_levels <= 65535, kOp,
                    ": expected at most 65535 images times levels on CUDA, got ",
                    p.head.batch_size * p.head.num_levels);
  const at::Tensor sizes = image_sizes_of(image_sizes, p.head.batch_size, first);
  const at::Tensor thresholds = class_thresholds_of(class_thresh, p.head.num_classes, first);

  const auto options = first.options().dtype(at::kFloat);
  at::Tensor boxes = at::empty({p.head.batch_size, detections_per_img, 4}, options);
  at::Tensor scores = at::empty({p.head.batch_size, detections_per_img}, options);
  at::Tensor labels = at::empty({p.head.batch_size, detections_per_img}, options.dtype(at::kLong));
  at::Tensor counts = at::empty({p.head.batch_size}, options.dtype(at::kLong));
  if (p.head.batch_size == 0) return {boxes, scores, labels, counts};

  p.anchors = held.anchors;
  p.image_sizes = sizes.const_data_ptr<int64_t>();
  p.image_sizes_on_host = sizes.is_cpu();
  p.score_thresh = float(score_thresh);
  p.class_thresh = thresholds.defined() ? thresholds.const_data_ptr<float>() : nullptr;
  p.nms_thresh = nms_thresh;
  p.soft_nms_sigma = soft_nms_sigma;
  p.topk_candidates = topk_candidates;
  p.detections_per_img = detections_per_img;
  std::copy_n(box_weights.begin(), 4, p.box_weights);
  p.max_log_scale = kMaxLogScale;
  p.boxes = boxes.mutable_data_ptr<float>();
  p.scores = scores.mutable_data_ptr<float>();
  p.labels = labels.mutable_data_ptr<int64_t>();
  p.counts = counts.mutable_data_ptr<int64_t>();
  size_t bytes = 0;
  p.workspace_bytes = &bytes;
  const auto run = [&] {
    launch(kOp, first, p, &CpuKernels::retinanet_detect, RETINANET_FAST_CUDA_LAUNCHER(retinanet_detect_cuda));
  };
  run();  // without a workspace: says how large it must be
  const at::Tensor workspace = at::empty({int64_t(bytes)}, options.dtype(at::kByte));
  p.workspace = workspace.mutable_data_ptr();
  run();
  return {boxes, scores, labels, counts};
}

TORCH_LIBRARY_FRAGMENT(retinanet_fast, m) {
  // The boxes, scores, labels and counts of each image's detections, from the outputs of the head's levels. anchors,
  // strides and grid_sizes as in match_anchors.
  define_op<retinanet_detect>(
      m,
      "retinanet_detect(Tensor[] cls_logits, Tensor[] bbox_regression, Tensor anchors, SymInt[] strides, "
      "SymInt[] grid_sizes, Tensor image_sizes, float score_thresh, Tensor? class_thresh, int topk_candidates, "
      "float nms_thresh, int detections_per_img, float[] box_weights, str soft_nms, float soft_nms_sigma) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

}  // namespace
}  // namespace retinanet_fast
