// Checks of arguments, the same for both devices. Every error names the op, the argument, what was expected and what
// was found.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include "kernels/common.h"

namespace retinanet_fast {

// The tensor's dtype as kernels know it; a TypeError unless it is floating point.
DType dtype_of(const char* op, const char* argument, const at::Tensor& tensor);

// `boxes` is floating point and [N, 4].
void check_boxes(const char* op, const char* argument, const at::Tensor& boxes);

// `tensor` lies on the device of `like`, or has the dtype of `like`.
void check_same_device(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like);
void check_same_dtype(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like);

// `grad` has the shape of `like` and lies on its device.
void check_gradient(const char* op, const char* argument, const at::Tensor& grad, const at::Tensor& like);

// `labels` are int64 or int32.
void check_labels(const char* op, const char* argument, const at::Tensor& labels);

// The four weights of a box coding, (x, y, width, height), none of them 0.
void check_box_weights(const char* op, const char* argument, at::ArrayRef<double> weights);

// The two thresholds of matching, low <= high.
void check_thresholds(const char* op, double high_threshold, double low_threshold);

// In [0, 1], or -1 for none.
void check_alpha(const char* op, double alpha);

// Finite and >= 0.
void check_gamma(const char* op, double gamma);

enum class Reduction : int8_t { kNone, kMean, kSum };

// "none", "mean" or "sum".
Reduction parse_reduction(const char* op, c10::string_view reduction);

}  // namespace retinanet_fast
