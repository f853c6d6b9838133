#include "kernels/retinanet_loss.h"

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "torch/anchors.h"
#include "torch/common.h"
#include "torch/deferred_error.h"
#include "torch/memory.h"

namespace retinanet_fast {
namespace {

constexpr const char* kOp = "retinanet_loss";
const double kMaxLogScale = std::log(1000.0 / 16.0);

using TensorLists = std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>>;
using Forward = std::tuple<at::Tensor, at::Tensor>(at::TensorList, at::TensorList, const at::Tensor&,
                                                   c10::SymIntArrayRef, c10::SymIntArrayRef, at::TensorList,
                                                   at::TensorList, double, double, c10::string_view, double,
                                                   at::ArrayRef<double>, double, double, bool, bool);
using Backward = TensorLists(const at::Tensor&, const at::Tensor&, at::TensorList, at::TensorList, const at::Tensor&,
                             c10::SymIntArrayRef, c10::SymIntArrayRef, at::TensorList, at::TensorList, double, double,
                             c10::string_view, double, at::ArrayRef<double>, double, double, bool, bool);

// The ops' arguments that are not tensors.
struct Options {
  double alpha;
  double gamma;
  std::string box_loss;
  double smooth_l1_beta;
  std::vector<double> box_weights;
  double high_threshold;
  double low_threshold;
  bool allow_low_quality_matches;
  bool match_zero_iou;
};

struct Inputs {
  at::TensorList cls_logits;
  at::TensorList bbox_regression;
  const at::Tensor& anchors;
  at::TensorList gt_boxes;
  at::TensorList gt_labels;
};

// ---- checks -----------------------------------------------------------------------------------------------------

BoxLoss parse_box_loss(const std::string& name) {
  if (name == "l1") return BoxLoss::kL1;
  if (name == "smooth_l1") return BoxLoss::kSmoothL1;
  TORCH_CHECK_VALUE(name == "giou", kOp, ": expected box_loss 'l1', 'smooth_l1' or 'giou', got '", name, "'");
  return BoxLoss::kGiou;
}

void check_options(const Options& options) {
  TORCH_CHECK_VALUE((options.alpha >= 0 && options.alpha <= 1) || options.alpha == -1, kOp,
                    ": expected alpha in [0, 1], or -1 for none, got ", options.alpha);
  check_gamma(kOp, options.gamma);
  TORCH_CHECK_VALUE(options.smooth_l1_beta >= 0, kOp, ": expected smooth_l1_beta >= 0, got ", options.smooth_l1_beta);
  TORCH_CHECK_VALUE(options.box_weights.size() == 4, kOp, ": expected 4 box_weights (x, y, width, height), got ",
                    options.box_weights.size());
  TORCH_CHECK_VALUE(options.low_threshold <= options.high_threshold, kOp,
                    ": expected low_threshold <= high_threshold, got ", options.low_threshold, " > ",
                    options.high_threshold);
}

void check_levels(const Inputs& in) {
  TORCH_CHECK_VALUE(!in.cls_logits.empty() && in.cls_logits.size() == in.bbox_regression.size(), kOp,
                    ": expected one or more levels of cls_logits and as many of bbox_regression, got ",
                    in.cls_logits.size(), " and ", in.bbox_regression.size());
  TORCH_CHECK_VALUE(in.cls_logits.size() <= kMaxLevels, kOp, ": expected at most ", kMaxLevels, " levels, got ",
                    in.cls_logits.size());
  const at::Tensor& first = in.cls_logits[0];
  dtype_of(kOp, "cls_logits", first);
  for (size_t l = 0; l < in.cls_logits.size(); ++l) {
    const at::Tensor& logits = in.cls_logits[l];
    const at::Tensor& deltas = in.bbox_regression[l];
    check_same_device(kOp, "cls_logits", logits, first);
    check_same_device(kOp, "bbox_regression", deltas, first);
    check_same_dtype(kOp, "cls_logits", logits, first);
    check_same_dtype(kOp, "bbox_regression", deltas, first);
    TORCH_CHECK_VALUE(deltas.dim() == 4 && deltas.size(1) % 4 == 0 && deltas.size(1) > 0, kOp,
                      ": expected bbox_regression[", l, "] [B, K * 4, H, W], got ", deltas.sizes());
    const int64_t per_cell = deltas.size(1) / 4;
    TORCH_CHECK_VALUE(logits.dim() == 4 && logits.size(0) == deltas.size(0) && logits.size(2) == deltas.size(2) &&
                          logits.size(3) == deltas.size(3) && logits.size(1) % per_cell == 0 && logits.size(1) > 0,
                      kOp, ": expected cls_logits[", l, "] [", deltas.size(0), ", ", per_cell, " * C, ", deltas.size(2),
                      ", ", deltas.size(3), "] beside its bbox_regression, got ", logits.sizes());
    TORCH_CHECK_VALUE(logits.size(0) == first.size(0) && logits.size(1) == first.size(1) &&
                          deltas.size(1) == in.bbox_regression[0].size(1),
                      kOp, ": expected every level to have the batch and channels of the first, [", first.size(0), ", ",
                      first.size(1), ", H, W], got ", logits.sizes(), " at level ", l);
  }
}

void check_targets(const Inputs& in) {
  const auto images = size_t(in.cls_logits[0].size(0));
  TORCH_CHECK_VALUE(in.gt_boxes.size() == images && in.gt_labels.size() == images, kOp,
                    ": expected gt_boxes and gt_labels of ", images, " images, got ", in.gt_boxes.size(), " and ",
                    in.gt_labels.size());
  for (size_t image = 0; image < images; ++image) {
    const at::Tensor& labels = in.gt_labels[image];
    TORCH_CHECK_TYPE(labels.scalar_type() == at::kLong || labels.scalar_type() == at::kInt, kOp,
                     ": expected gt_labels of int64 or int32, got ", labels.scalar_type());
    TORCH_CHECK_VALUE(
        labels.dim() == 1 && in.gt_boxes[image].dim() == 2 && labels.size(0) == in.gt_boxes[image].size(0), kOp,
        ": expected a label for each box of image ", image, ", got gt_labels ", labels.sizes(), " and gt_boxes ",
        in.gt_boxes[image].sizes());
    check_same_device(kOp, "gt_labels", labels, in.cls_logits[0]);
  }
}

// The images' labels one after the other. On CUDA the kernel looks at their values, so that nothing waits.
at::Tensor labels_of(const Inputs& in, int64_t classes) {
  if (in.gt_labels.empty()) return at::empty({0}, in.cls_logits[0].options().dtype(at::kLong));
  const at::Tensor all =
      (in.gt_labels.size() == 1 ? in.gt_labels[0] : at::cat(in.gt_labels)).to(at::kLong).contiguous();
  if (!all.is_cpu()) return all;
  const int64_t* label = all.const_data_ptr<int64_t>();
  for (size_t image = 0; image < in.gt_labels.size(); ++image) {
    for (int64_t row = 0; row < in.gt_labels[image].size(0); ++row, ++label) {
      TORCH_CHECK_INDEX(*label >= 0 && *label < classes, kOp, ": expected gt_labels in [0, ", classes, "), got ",
                        *label, " in image ", image, ", row ", row);
    }
  }
  return all;
}

// ---- the kernels ------------------------------------------------------------------------------------------------

struct Gradients {
  std::vector<at::Tensor> cls_logits;  // one a level, undefined where not asked for
  std::vector<at::Tensor> bbox_regression;
};

LevelStrides strides_of(const at::Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// The losses; `gradients`, if any, say which to compute by being of the levels' number, and are filled in.
class Call {
 public:
  Call(const Inputs& in, at::IntArrayRef strides, at::IntArrayRef grid_sizes, const Options& options) : in_(in) {
    check_options(options);
    check_levels(in);
    check_targets(in);
    const at::Tensor& first = in.cls_logits[0];
    params_.head.num_levels = int64_t(in.cls_logits.size());
    params_.head.batch_size = first.size(0);
    params_.head.anchors_per_cell = in.bbox_regression[0].size(1) / 4;
    params_.head.num_classes = first.size(1) / params_.head.anchors_per_cell;
    params_.anchors = anchors_of(kOp, in.anchors, strides, grid_sizes, first.device(), anchors_);
    params_.head.logits_dtype = params_.head.deltas_dtype = dtype_of(kOp, "cls_logits", first);
    params_.alpha = options.alpha;
    params_.gamma = options.gamma;
    params_.box_loss = parse_box_loss(options.box_loss);
    params_.smooth_l1_beta = options.smooth_l1_beta;
    std::copy_n(options.box_weights.begin(), 4, params_.box_weights);
    params_.max_log_scale = kMaxLogScale;
    set_levels(grid_sizes);
    match(options);
  }

  Gradients add_gradients(const std::vector<bool>& of_logits, const std::vector<bool>& of_deltas) {
    Gradients result{std::vector<at::Tensor>(of_logits.size()), std::vector<at::Tensor>(of_deltas.size())};
    for (int l = 0; l < params_.head.num_levels; ++l) {
      HeadGradients& level = params_.gradients[l];
      if (of_logits[l]) {
        at::Tensor& grad = result.cls_logits[l] = empty_dense_like(in_.cls_logits[l]);
        level.logits = grad.mutable_data_ptr();
        level.logits_strides = strides_of(grad);
      }
      if (of_deltas[l]) {
        at::Tensor& grad = result.bbox_regression[l] = at::zeros_like(in_.bbox_regression[l]);
        level.deltas = grad.mutable_data_ptr();
        level.deltas_strides = strides_of(grad);
      }
    }
    return result;
  }

  std::tuple<at::Tensor, at::Tensor> run(const at::Tensor& grad_classification = {}, const at::Tensor& grad_bbox = {}) {
    const at::Tensor& first = in_.cls_logits[0];
    const auto options = first.options().dtype(first.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
    at::Tensor losses[2] = {at::empty({}, options), at::empty({}, options)};
    const int64_t sums = uses_cpu_kernels(first) ? 2 * retinanet_loss_tasks(params_) : retinanet_loss_blocks(params_);
    at::Tensor partial_sums = at::empty({sums}, options.dtype(at::kDouble));
    params_.classification = losses[0].mutable_data_ptr();
    params_.bbox = losses[1].mutable_data_ptr();
    params_.partial_sums = partial_sums.mutable_data_ptr<double>();
    if (grad_classification.defined()) params_.grad_classification = grad_classification.const_data_ptr();
    if (grad_bbox.defined()) params_.grad_bbox = grad_bbox.const_data_ptr();
    retinanet_fast::run(kOp, first, params_, &CpuKernels::retinanet_loss, RETINANET_FAST_CUDA(retinanet_loss_cuda));
    return {losses[0], losses[1]};
  }

 private:
  void set_levels(at::IntArrayRef grid_sizes) {
    int64_t anchors = 0;
    for (int l = 0; l < params_.head.num_levels; ++l) {
      const at::Tensor& logits = in_.cls_logits[l];
      TORCH_CHECK_VALUE(
          in_.anchors.dim() == 2 || (in_.anchors.size(0) == params_.head.num_levels &&
                                     params_.anchors.anchors_per_cell == params_.head.anchors_per_cell &&
                                     grid_sizes[2 * l] == logits.size(2) && grid_sizes[2 * l + 1] == logits.size(3)),
          kOp, ": expected an AnchorGrid of ", params_.head.num_levels, " levels with ", params_.head.anchors_per_cell,
          " anchors a cell and ", logits.size(2), " x ", logits.size(3), " cells at level ", l, ", got base_anchors ",
          in_.anchors.sizes(), " and grid sizes ", grid_sizes);
      HeadLevel& level = params_.head.levels[l];
      level.logits = logits.const_data_ptr();
      level.deltas = in_.bbox_regression[l].const_data_ptr();
      level.logits_strides = strides_of(logits);
      level.deltas_strides = strides_of(in_.bbox_regression[l]);
      level.first_anchor = anchors;
      level.height = logits.size(2);
      level.width = logits.size(3);
      anchors += params_.head.anchors_per_cell * level.height * level.width;
    }
    TORCH_CHECK_VALUE(anchors == params_.anchors.num_anchors, kOp, ": expected ", anchors,
                      " anchors for these levels, got ", params_.anchors.num_anchors);
  }

  void match(const Options& options) {
    const at::Tensor& first = in_.cls_logits[0];
    truth_ = ground_truth_of(kOp, in_.gt_boxes, first.device(), anchors_.scalar_type());
    labels_ = labels_of(in_, params_.head.num_classes);
    params_.bad_label = deferred_error(kOp, first);
    const auto ints = first.options().dtype(at::kInt);
    matches_ = at::empty({params_.head.batch_size, params_.anchors.num_anchors}, ints);
    num_foreground_ = at::empty({params_.head.batch_size}, ints);
    at::Tensor best_iou = at::empty({truth_.boxes.size(0)}, truth_.boxes.options());
    params_.matches = matches_.const_data_ptr<int32_t>();
    params_.num_foreground = num_foreground_.const_data_ptr<int32_t>();
    params_.gt_boxes = truth_.boxes.const_data_ptr();
    params_.gt_labels = labels_.const_data_ptr<int64_t>();
    params_.gt_dtype = dtype_of(kOp, "gt_boxes", truth_.boxes);
    const MatchAnchorsParams matching{
        .anchors = params_.anchors,
        .gt_boxes = truth_.boxes.const_data_ptr(),
        .gt_offsets = truth_.offsets.data(),
        .batch_size = params_.head.batch_size,
        .rule = {options.high_threshold, options.low_threshold, options.allow_low_quality_matches,
                 options.match_zero_iou},
        .best_iou = best_iou.mutable_data_ptr(),
        .matches = matches_.mutable_data_ptr<int32_t>(),
        .num_foreground = num_foreground_.mutable_data_ptr<int32_t>(),
        .bad_box = params_.bad_label,
        .dtype = params_.gt_dtype,
        .wide_matches = false,
    };
    retinanet_fast::run(kOp, first, matching, &CpuKernels::match_anchors, RETINANET_FAST_CUDA(match_anchors_cuda));
    raise_deferred_error_of_emulator(kOp, first);
  }

  const Inputs& in_;
  RetinanetLossParams params_{};
  // What the params point at.
  at::Tensor anchors_, labels_, matches_, num_foreground_;
  GroundTruth truth_;
};

// ---- the ops ----------------------------------------------------------------------------------------------------

std::tuple<at::Tensor, at::Tensor> retinanet_loss(
    at::TensorList cls_logits, at::TensorList bbox_regression, const at::Tensor& anchors, at::IntArrayRef strides,
    at::IntArrayRef grid_sizes, at::TensorList gt_boxes, at::TensorList gt_labels, double alpha, double gamma,
    c10::string_view box_loss, double smooth_l1_beta, at::ArrayRef<double> box_weights, double high_threshold,
    double low_threshold, bool allow_low_quality_matches, bool match_zero_iou) {
  const Inputs in{cls_logits, bbox_regression, anchors, gt_boxes, gt_labels};
  const Options options{alpha,          gamma,         std::string(box_loss),     smooth_l1_beta, box_weights.vec(),
                        high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou};
  return Call(in, strides, grid_sizes, options).run();
}

TensorLists retinanet_loss_backward(const at::Tensor& grad_classification, const at::Tensor& grad_bbox,
                                    at::TensorList cls_logits, at::TensorList bbox_regression,
                                    const at::Tensor& anchors, at::IntArrayRef strides, at::IntArrayRef grid_sizes,
                                    at::TensorList gt_boxes, at::TensorList gt_labels, double alpha, double gamma,
                                    c10::string_view box_loss, double smooth_l1_beta, at::ArrayRef<double> box_weights,
                                    double high_threshold, double low_threshold, bool allow_low_quality_matches,
                                    bool match_zero_iou) {
  const Inputs in{cls_logits, bbox_regression, anchors, gt_boxes, gt_labels};
  const Options options{alpha,          gamma,         std::string(box_loss),     smooth_l1_beta, box_weights.vec(),
                        high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou};
  Call call(in, strides, grid_sizes, options);
  const std::vector<bool> all(cls_logits.size(), true);
  Gradients gradients = call.add_gradients(all, all);
  const auto dtype = cls_logits[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  call.run(grad_classification.to(dtype), grad_bbox.to(dtype));
  return {std::move(gradients.cls_logits), std::move(gradients.bbox_regression)};
}

// ---- autograd ---------------------------------------------------------------------------------------------------

std::vector<bool> which_need_grad(at::TensorList tensors) {
  std::vector<bool> result;
  for (const at::Tensor& tensor : tensors) result.push_back(tensor.requires_grad());
  return result;
}

bool any(const std::vector<bool>& flags) { return std::find(flags.begin(), flags.end(), true) != flags.end(); }

// In eager mode the gradients are made in the same pass as the losses, for an incoming gradient of 1, and backward
// hands them out: the logits are read once. Not in float16, whose small numbers a GradScaler must scale before they
// are rounded, nor for traced tensors (torch.compile, export), whose graph gets the plain backward op.
bool makes_gradients_in_forward(const Inputs& in) {
  const auto traced = [](at::TensorList tensors) {
    return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& t) { return at::isTensorSubclassLike(t); });
  };
  return in.cls_logits[0].scalar_type() != at::kHalf && !traced(in.cls_logits) && !traced(in.bbox_regression) &&
         !traced(in.gt_boxes) && !traced(in.gt_labels) && !at::isTensorSubclassLike(in.anchors);
}

// Hands `results` on as functions of `inputs` that raise where somebody differentiates them once more.
class OnceDifferentiable : public torch::autograd::Function<OnceDifferentiable> {
 public:
  static torch::autograd::tensor_list forward(torch::autograd::AutogradContext*, at::TensorList /*inputs*/,
                                              at::TensorList results) {
    torch::autograd::tensor_list outputs;
    for (const at::Tensor& result : results) outputs.push_back(result.detach());
    return outputs;
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext*, torch::autograd::tensor_list) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, kOp, ": has no second derivative; retinanet_fast.reference.", kOp, " has one");
  }
};

class RetinanetLoss : public torch::autograd::Function<RetinanetLoss> {
 public:
  static torch::autograd::tensor_list forward(torch::autograd::AutogradContext* context, at::TensorList cls_logits,
                                              at::TensorList bbox_regression, const at::Tensor& anchors,
                                              at::TensorList gt_boxes, at::TensorList gt_labels,
                                              c10::SymIntArrayRef strides, c10::SymIntArrayRef grid_sizes,
                                              const Options& options) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Inputs in{cls_logits, bbox_regression, anchors, gt_boxes, gt_labels};
    const auto of_logits = which_need_grad(cls_logits);
    const auto of_deltas = which_need_grad(bbox_regression);
    save(context, in, strides, grid_sizes, options);
    context->set_materialize_grads(false);
    std::tuple<at::Tensor, at::Tensor> losses;
    if (makes_gradients_in_forward(in)) {
      Call call(in, C10_AS_INTARRAYREF_SLOW(strides), C10_AS_INTARRAYREF_SLOW(grid_sizes), options);
      Gradients gradients = call.add_gradients(of_logits, of_deltas);
      losses = call.run();
      context->saved_data["grad_logits"] = std::move(gradients.cls_logits);
      context->saved_data["grad_deltas"] = std::move(gradients.bbox_regression);
    } else {
      static const auto op = typed_op<Forward>("retinanet_fast::retinanet_loss");
      losses =
          op.call(cls_logits, bbox_regression, anchors, strides, grid_sizes, gt_boxes, gt_labels, options.alpha,
                  options.gamma, options.box_loss, options.smooth_l1_beta, options.box_weights, options.high_threshold,
                  options.low_threshold, options.allow_low_quality_matches, options.match_zero_iou);
    }
    auto [classification, bbox] = losses;
    if (!any(of_logits)) context->mark_non_differentiable({classification});
    if (!any(of_deltas)) context->mark_non_differentiable({bbox});
    return {classification, bbox};
  }

  static torch::autograd::tensor_list backward(torch::autograd::AutogradContext* context,
                                               torch::autograd::tensor_list grads) {
    const Saved saved(context);  // raises if an input was changed in place
    auto& data = context->saved_data;
    std::vector<at::Tensor> grad_logits(saved.levels()), grad_deltas(saved.levels());
    if (data.count("grad_logits") != 0 && !at::GradMode::is_enabled()) {
      grad_logits = take(data, "grad_logits", grads[0]);
      grad_deltas = take(data, "grad_deltas", grads[1]);
    } else if (grads[0].defined() || grads[1].defined()) {
      std::tie(grad_logits, grad_deltas) = saved.backward(grads[0], grads[1]);
    }
    torch::autograd::tensor_list result = std::move(grad_logits);
    result.insert(result.end(), grad_deltas.begin(), grad_deltas.end());
    if (at::GradMode::is_enabled() && result[0].defined()) {  // create_graph=True
      result = OnceDifferentiable::apply(saved.outputs_of_the_head(), at::TensorList(result));
    }
    result.resize(saved.inputs() + 3);  // strides, grid sizes and options
    return result;
  }

 private:
  // The gradients that forward left, times `scale`. They are given up with the last reference to them, so that
  // scaling in place and accumulating by moving are safe; a second backward pass computes them anew.
  static std::vector<at::Tensor> take(ska::flat_hash_map<std::string, at::IValue>& data, const std::string& name,
                                      const at::Tensor& scale) {
    std::vector<at::Tensor> gradients = data[name].toTensorVector();
    data.erase(name);
    for (at::Tensor& gradient : gradients) {
      if (!scale.defined()) {
        gradient = at::Tensor();
      } else if (gradient.defined()) {
        gradient = scale_gradient(std::move(gradient), scale);
      }
    }
    return gradients;
  }

  static void save(torch::autograd::AutogradContext* context, const Inputs& in, c10::SymIntArrayRef strides,
                   c10::SymIntArrayRef grid_sizes, const Options& options) {
    torch::autograd::variable_list tensors(in.cls_logits.begin(), in.cls_logits.end());
    tensors.insert(tensors.end(), in.bbox_regression.begin(), in.bbox_regression.end());
    tensors.push_back(in.anchors);
    tensors.insert(tensors.end(), in.gt_boxes.begin(), in.gt_boxes.end());
    tensors.insert(tensors.end(), in.gt_labels.begin(), in.gt_labels.end());
    context->save_for_backward(std::move(tensors));
    auto& data = context->saved_data;
    data["levels"] = int64_t(in.cls_logits.size());
    data["images"] = int64_t(in.gt_boxes.size());
    data["strides"] = strides.vec();
    data["grid_sizes"] = grid_sizes.vec();
    data["box_loss"] = options.box_loss;
    data["box_weights"] = options.box_weights;
    data["numbers"] = std::vector<double>{options.alpha, options.gamma, options.smooth_l1_beta, options.high_threshold,
                                          options.low_threshold};
    data["allow_low_quality_matches"] = options.allow_low_quality_matches;
    data["match_zero_iou"] = options.match_zero_iou;
  }

  // What save() stored.
  class Saved {
   public:
    explicit Saved(torch::autograd::AutogradContext* context)
        : data_(context->saved_data),
          tensors_(context->get_saved_variables()),
          levels_(size_t(data_["levels"].toInt())),
          images_(size_t(data_["images"].toInt())) {}

    size_t levels() const { return levels_; }
    size_t inputs() const { return tensors_.size(); }
    at::TensorList outputs_of_the_head() const { return at::TensorList(tensors_).slice(0, 2 * levels_); }

    TensorLists backward(const at::Tensor& grad_classification, const at::Tensor& grad_bbox) const {
      static const auto op = typed_op<Backward>("retinanet_fast::retinanet_loss_backward");
      const at::TensorList all(tensors_);
      const auto numbers = data_["numbers"].toDoubleVector();
      const auto box_weights = data_["box_weights"].toDoubleVector();
      const auto strides = data_["strides"].toSymIntVector();
      const auto grid_sizes = data_["grid_sizes"].toSymIntVector();
      const auto& given = grad_classification.defined() ? grad_classification : grad_bbox;
      const auto or_zero = [&](const at::Tensor& grad) { return grad.defined() ? grad : at::zeros_like(given); };
      return op.call(or_zero(grad_classification), or_zero(grad_bbox), all.slice(0, levels_),
                     all.slice(levels_, levels_), all[2 * levels_], strides, grid_sizes,
                     all.slice(2 * levels_ + 1, images_), all.slice(2 * levels_ + 1 + images_, images_), numbers[0],
                     numbers[1], data_["box_loss"].toStringRef(), numbers[2], box_weights, numbers[3], numbers[4],
                     data_["allow_low_quality_matches"].toBool(), data_["match_zero_iou"].toBool());
    }

   private:
    ska::flat_hash_map<std::string, at::IValue>& data_;
    torch::autograd::variable_list tensors_;
    size_t levels_;
    size_t images_;
  };
};

std::tuple<at::Tensor, at::Tensor> retinanet_loss_autograd(
    at::TensorList cls_logits, at::TensorList bbox_regression, const at::Tensor& anchors, c10::SymIntArrayRef strides,
    c10::SymIntArrayRef grid_sizes, at::TensorList gt_boxes, at::TensorList gt_labels, double alpha, double gamma,
    c10::string_view box_loss, double smooth_l1_beta, at::ArrayRef<double> box_weights, double high_threshold,
    double low_threshold, bool allow_low_quality_matches, bool match_zero_iou) {
  if (at::GradMode::is_enabled() && (any(which_need_grad(cls_logits)) || any(which_need_grad(bbox_regression)))) {
    const Options options{alpha,          gamma,         std::string(box_loss),     smooth_l1_beta, box_weights.vec(),
                          high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou};
    auto losses =
        RetinanetLoss::apply(cls_logits, bbox_regression, anchors, gt_boxes, gt_labels, strides, grid_sizes, options);
    return {losses[0], losses[1]};
  }
  static const auto op = typed_op<Forward>("retinanet_fast::retinanet_loss");
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(cls_logits, bbox_regression, anchors, strides, grid_sizes, gt_boxes, gt_labels, alpha, gamma, box_loss,
                 smooth_l1_beta, box_weights, high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou);
}

TORCH_LIBRARY_IMPL(retinanet_fast, CPU, m) {
  m.impl("retinanet_loss", retinanet_loss);
  m.impl("retinanet_loss_backward", retinanet_loss_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, CUDA, m) {
  m.impl("retinanet_loss", retinanet_loss);
  m.impl("retinanet_loss_backward", retinanet_loss_backward);
}
TORCH_LIBRARY_IMPL(retinanet_fast, Autograd, m) { m.impl("retinanet_loss", retinanet_loss_autograd); }

}  // namespace
}  // namespace retinanet_fast
