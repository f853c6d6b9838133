#include "tensor/checks.h"

#include <cmath>

namespace retinanet_fast {

DType dtype_of(const char* op, const char* argument, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble: return DType::kFloat64;
    case at::kFloat: return DType::kFloat32;
    case at::kHalf: return DType::kFloat16;
    case at::kBFloat16: return DType::kBFloat16;
    default:
      TORCH_CHECK_TYPE(false, op, ": expected ", argument, " of float64, float32, float16 or bfloat16, got ",
                       tensor.scalar_type());
  }
}

void check_boxes(const char* op, const char* argument, const at::Tensor& boxes) {
  TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected ", argument, " [N, 4], got ",
                    boxes.sizes());
  dtype_of(op, argument, boxes);
}

void check_same_device(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like) {
  TORCH_CHECK_VALUE(tensor.device() == like.device(), op, ": expected ", argument, " on ", like.device(), ", got ",
                    tensor.device());
}

void check_same_dtype(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), op, ": expected ", argument, " of dtype ",
                   like.scalar_type(), ", got ", tensor.scalar_type());
}

void check_gradient(const char* op, const char* argument, const at::Tensor& grad, const at::Tensor& like) {
  check_same_device(op, argument, grad, like);
  TORCH_CHECK_VALUE(grad.sizes() == like.sizes(), op, ": expected ", argument, " ", like.sizes(), ", got ",
                    grad.sizes());
}

void check_labels(const char* op, const char* argument, const at::Tensor& labels) {
  TORCH_CHECK_TYPE(labels.scalar_type() == at::kLong || labels.scalar_type() == at::kInt, op, ": expected ", argument,
                   " of int64 or int32, got ", labels.scalar_type());
}

void check_box_weights(const char* op, const char* argument, at::ArrayRef<double> weights) {
  TORCH_CHECK_VALUE(weights.size() == 4, op, ": expected 4 ", argument, " (x, y, width, height), got ", weights.size());
  for (const double weight : weights) {
    TORCH_CHECK_VALUE(weight != 0, op, ": expected ", argument, " other than 0, got ", weights);
  }
}

void check_thresholds(const char* op, double high_threshold, double low_threshold) {
  TORCH_CHECK_VALUE(low_threshold <= high_threshold, op, ": expected low_threshold <= high_threshold, got ",
                    low_threshold, " > ", high_threshold);
}

void check_alpha(const char* op, double alpha) {
  TORCH_CHECK_VALUE((alpha >= 0 && alpha <= 1) || alpha == -1, op, ": expected alpha in [0, 1], or -1 for none, got ",
                    alpha);
}

void check_gamma(const char* op, double gamma) {
  TORCH_CHECK_VALUE(std::isfinite(gamma) && gamma >= 0, op, ": expected a finite gamma >= 0, got ", gamma);
}

Reduction parse_reduction(const char* op, c10::string_view reduction) {
  if (reduction == "none") return Reduction::kNone;
  if (reduction == "mean") return Reduction::kMean;
  if (reduction == "sum") return Reduction::kSum;
  TORCH_CHECK_VALUE(false, op, ": expected reduction 'none', 'mean' or 'sum', got '", reduction, "'");
}

}  // namespace retinanet_fast
