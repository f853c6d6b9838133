#include "tensor/retinanet_loss_launch.h"

#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <string>

#include "tensor/box_coding.h"
#include "tensor/checks.h"
#include "tensor/deferred_error.h"
#include "tensor/memory.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "retinanet_loss";

BoxLoss parse_box_loss(c10::string_view name) {
  if (name == "l1") return BoxLoss::kL1;
  if (name == "smooth_l1") return BoxLoss::kSmoothL1;
  TORCH_CHECK_VALUE(name == "giou", kOp, ": expected box_loss 'l1', 'smooth_l1' or 'giou', got '", name, "'");
  return BoxLoss::kGiou;
}

void check_options(const LossArguments& in) {
  check_alpha(kOp, in.alpha);
  check_gamma(kOp, in.gamma);
  check_thresholds(kOp, in.high_threshold, in.low_threshold);
  check_box_weights(kOp, "box_weights", in.box_weights);
  TORCH_CHECK_VALUE(in.smooth_l1_beta >= 0, kOp, ": expected smooth_l1_beta >= 0, got ", in.smooth_l1_beta);
}

void check_targets(const LossArguments& in, int64_t batch_size) {
  const bool padded = is_padded(in.gt_boxes);
  const auto images = [&](at::TensorList list) {
    return padded && list.size() == 1 && list[0].dim() > 0 ? list[0].size(0) : int64_t(list.size());
  };
  TORCH_CHECK_VALUE(images(in.gt_boxes) == batch_size && images(in.gt_labels) == batch_size &&
                        in.gt_boxes.size() == in.gt_labels.size(),
                    kOp, ": expected gt_boxes and gt_labels of ", batch_size, " images, got ", images(in.gt_boxes),
                    " and ", images(in.gt_labels));
  for (size_t i = 0; i < in.gt_boxes.size(); ++i) {
    const at::Tensor& labels = in.gt_labels[i];
    const at::Tensor& boxes = in.gt_boxes[i];
    check_labels(kOp, "gt_labels", labels);
    TORCH_CHECK_VALUE((padded || boxes.dim() == 2) && labels.sizes() == boxes.sizes().slice(0, boxes.dim() - 1), kOp,
                      ": expected a label for each box of ", padded ? "all images" : "image " + std::to_string(i),
                      ", got gt_labels ", labels.sizes(), " and gt_boxes ", boxes.sizes());
    check_same_device(kOp, "gt_labels", labels, in.cls_logits[0]);
  }
}

// The images' labels one after the other, [G] int64. On CUDA the kernel checks their values: the host does not wait.
at::Tensor labels_of(const LossArguments& in, const GroundTruth& truth, int64_t num_classes) {
  if (in.gt_labels.empty()) return at::empty({0}, in.cls_logits[0].options().dtype(at::kLong));
  const at::Tensor all = concatenate(in.gt_labels, at::kLong).view(-1);
  if (!all.is_cpu()) return all;
  const int64_t* labels = all.const_data_ptr<int64_t>();
  for (int64_t image = 0; image < truth.batch_size(); ++image) {
    const int64_t first = truth.offsets[size_t(image)];
    const int64_t rows = truth.offsets[size_t(image) + 1] - first;
    const int64_t count = truth.counts.defined() ? truth.counts_or_null()[image] : rows;
    const int64_t boxes = count <= rows ? count : 0;  // more are an error of the matching
    for (int64_t row = 0; row < boxes; ++row) {
      const int64_t label = labels[first + row];
      TORCH_CHECK_INDEX(label >= 0 && label < num_classes, kOp, ": expected gt_labels in [0, ", num_classes, "), got ",
                        label, " in image ", image, ", row ", row);
    }
  }
  return all;
}

}  // namespace

LossLaunch::LossLaunch(const LossArguments& in) : in_(in) {
  check_options(in);
  params_.head = head_levels_of(kOp, in.cls_logits, in.bbox_regression);
  const auto wide = [](const at::TensorList list) { return list[0].scalar_type() == at::kDouble; };
  TORCH_CHECK_TYPE(wide(in.cls_logits) == wide(in.bbox_regression), kOp,
                   ": expected float64 bbox_regression beside float64 cls_logits and no other, got ",
                   in.bbox_regression[0].scalar_type(), " beside ", in.cls_logits[0].scalar_type());
  check_targets(in, params_.head.batch_size);
  anchors_ = anchors_of(kOp, in.anchors, C10_AS_INTARRAYREF_SLOW(in.strides), C10_AS_INTARRAYREF_SLOW(in.grid_sizes),
                        in.cls_logits[0]);
  check_anchors_of_head(kOp, anchors_.anchors, params_.head);
  params_.anchors = anchors_.anchors;
  params_.alpha = in.alpha;
  params_.gamma = in.gamma;
  params_.box_loss = parse_box_loss(in.box_loss);
  params_.smooth_l1_beta = in.smooth_l1_beta;
  std::copy_n(in.box_weights.begin(), 4, params_.box_weights);
  params_.max_log_scale = kMaxLogScale;
  match();
}

LossGradients LossLaunch::add_gradients(bool of_logits, bool of_deltas) {
  LossGradients result;
  for (int64_t l = 0; l < params_.head.num_levels; ++l) {
    HeadGradients& gradients = params_.gradients[l];
    if (of_logits) {
      const at::Tensor& grad = result.cls_logits.emplace_back(empty_dense_like(in_.cls_logits[l]));
      gradients.logits = grad.mutable_data_ptr();
      gradients.logits_strides = strides_of(grad);
    }
    if (of_deltas) {
      const at::Tensor& grad = result.bbox_regression.emplace_back(at::empty_like(in_.bbox_regression[l]));
      gradients.deltas = grad.mutable_data_ptr();
      gradients.deltas_strides = strides_of(grad);
    }
  }
  if (of_deltas) at::_foreach_zero_(result.bbox_regression);  // one launch on CUDA
  return result;
}

Losses LossLaunch::run(const at::Tensor& grad_classification, const at::Tensor& grad_box) {
  const at::Tensor& first = in_.cls_logits[0];
  const auto options = first.options().dtype(first.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  Losses losses{at::empty({}, options), at::empty({}, options)};
  const int64_t sums =
      uses_cpu_kernels(kOp, first) ? 2 * retinanet_loss_tasks(params_) : retinanet_loss_blocks(params_);
  const at::Tensor partial_sums = at::empty({sums}, options.dtype(at::kDouble));
  params_.classification = std::get<0>(losses).mutable_data_ptr();
  params_.box = std::get<1>(losses).mutable_data_ptr();
  params_.partial_sums = partial_sums.mutable_data_ptr<double>();
  const at::Tensor scales[2] = {grad_classification.defined() ? grad_classification.to(options.dtype()) : at::Tensor(),
                                grad_box.defined() ? grad_box.to(options.dtype()) : at::Tensor()};
  if (scales[0].defined()) params_.grad_classification = scales[0].const_data_ptr();
  if (scales[1].defined()) params_.grad_box = scales[1].const_data_ptr();
  launch(kOp, first, params_, &CpuKernels::retinanet_loss, RETINANET_FAST_CUDA_LAUNCHER(retinanet_loss_cuda));
  return losses;
}

void LossLaunch::match() {
  const at::Tensor& first = in_.cls_logits[0];
  truth_ = ground_truth_of(kOp, in_.gt_boxes, in_.gt_counts, anchors_.memory);
  labels_ = labels_of(in_, truth_, params_.head.num_classes);
  const DeferredError error(kOp, first);
  params_.bad_label = error.word();
  const auto ints = first.options().dtype(at::kInt);
  matches_ = at::empty({params_.head.batch_size, params_.anchors.num_anchors}, ints);
  num_foreground_ = at::empty({params_.head.batch_size}, ints);
  at::Tensor best_iou = at::empty({2, truth_.boxes.size(0)}, truth_.boxes.options());
  params_.matches = matches_.const_data_ptr<int32_t>();
  params_.num_foreground = num_foreground_.const_data_ptr<int32_t>();
  params_.gt_boxes = truth_.boxes.const_data_ptr();
  params_.gt_labels = labels_.const_data_ptr<int64_t>();
  params_.gt_dtype = dtype_of(kOp, "gt_boxes", truth_.boxes);
  const MatchAnchorsParams matching{
      .anchors = params_.anchors,
      .gt_boxes = truth_.boxes.const_data_ptr(),
      .gt_offsets = truth_.offsets.data(),
      .gt_counts = truth_.counts_or_null(),
      .batch_size = params_.head.batch_size,
      .rule = {in_.high_threshold, in_.low_threshold, in_.allow_low_quality_matches, in_.match_zero_iou},
      .num_boxes = truth_.boxes.size(0),
      .best_iou = best_iou.mutable_data_ptr(),
      .matches = matches_.mutable_data_ptr<int32_t>(),
      .num_foreground = num_foreground_.mutable_data_ptr<int32_t>(),
      .bad_box = error.word(),
      .dtype = params_.gt_dtype,
      .wide_matches = false,
  };
  launch(kOp, first, matching, &CpuKernels::match_anchors, RETINANET_FAST_CUDA_LAUNCHER(match_anchors_cuda));
  error.raise_if_known();
}

}  // namespace retinanet_fast
