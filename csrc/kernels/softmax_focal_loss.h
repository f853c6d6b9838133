// The categorical focal loss of every row, its sum, and its gradient.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

// Computes the outputs that are not null.
struct SoftmaxFocalLossParams {
  const void* inputs;                 // [rows, classes]
  const int64_t* labels;              // [rows], in [0, classes)
  const double* class_weights;        // [classes], or null
  const void* grad_output = nullptr;  // [rows], or [1] if grad_output_is_scalar: multiplies the gradient; null for 1
  void* loss = nullptr;               // [rows]
  void* sum = nullptr;                // [1], the sum of all losses; needs partial_sums
  void* grad_inputs = nullptr;        // [rows, classes]
  double* partial_sums = nullptr;     // [softmax_focal_loss_tiles(rows)] workspace, added up in order
  int64_t* bad_label = nullptr;       // CUDA: bad_label_code() of a label outside the classes is written here
  int64_t rows;
  int64_t classes;
  double gamma;
  double scale;  // of losses and gradients
  bool grad_output_is_scalar = false;
  bool wide_scalars = false;  // sum, and a grad_output that is a scalar, have the type that dtype is computed in
  DType dtype;
};

// Rows per partial sum: those of one task on the CPU, of one block on CUDA.
constexpr int64_t kSoftmaxFocalLossTile = 64;

constexpr int64_t softmax_focal_loss_tiles(int64_t rows) { return ceil_div(rows, kSoftmaxFocalLossTile); }

Status softmax_focal_loss_cuda(const SoftmaxFocalLossParams& params, CudaStream stream);

}  // namespace retinanet_fast
