// The sigmoid focal loss of every element, its sum, and its gradients, in one pass over the logits.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

// Computes the outputs that are not null. With soft targets, `elements` may lie in any dense order that the tensors
// share.
struct SigmoidFocalLossParams {
  const void* inputs;                 // [elements], with labels [elements / classes, classes]
  const int64_t* labels;              // [elements / classes]: class index, -1 background, -2 ignored; or null
  const void* targets;                // [elements] soft targets where labels is null
  const void* grad_output = nullptr;  // [elements], or [1] if grad_output_is_scalar: multiplies gradients; null for 1

  void* loss = nullptr;            // [elements]
  void* sum = nullptr;             // [1], the sum of all losses; needs partial_sums
  void* grad_inputs = nullptr;     // [elements]
  void* grad_targets = nullptr;    // [elements], soft targets only
  double* partial_sums = nullptr;  // [sigmoid_focal_loss_tiles(elements)] workspace, added up in order

  int64_t* bad_label = nullptr;  // CUDA: bad_label_code() of a label outside the classes is written here
  int64_t elements;
  int64_t classes;
  double alpha;  // negative: no weighting
  double gamma;
  double scale;  // of losses and gradients
  bool grad_output_is_scalar = false;
  bool wide_scalars = false;  // sum, and a grad_output that is a scalar, have the type that dtype is computed in
  DType dtype;
};

// Elements per partial sum, and per CPU task. (A CUDA block takes as many or twice as many.)
constexpr int64_t kSigmoidFocalLossTile = 8192;

constexpr int64_t sigmoid_focal_loss_tiles(int64_t elements) { return ceil_div(elements, kSigmoidFocalLossTile); }

Status sigmoid_focal_loss_cuda(const SigmoidFocalLossParams& params, CudaStream stream);

}  // namespace retinanet_fast
