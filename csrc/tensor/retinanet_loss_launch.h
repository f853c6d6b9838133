// One call of retinanet_loss or of its backward op: its arguments, checked, and the kernels' parameters.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/string_view.h>

#include <optional>
#include <tuple>
#include <vector>

#include "kernels/retinanet_loss.h"
#include "tensor/head_levels.h"

namespace retinanet_fast {

struct LossArguments {
  at::TensorList cls_logits;            // L of [B, K * C, H, W]
  at::TensorList bbox_regression;       // L of [B, K * 4, H, W]
  at::Tensor anchors;                   // [A, 4], or a grid's base anchors [L, K, 4]
  c10::SymIntArrayRef strides;          // [2 L], or empty
  c10::SymIntArrayRef grid_sizes;       // [2 L], or empty
  at::TensorList gt_boxes;              // B of [G, 4], or one of [B, G, 4]
  at::TensorList gt_labels;             // B of [G], or one of [B, G]
  std::optional<at::Tensor> gt_counts;  // [B]
  double alpha;
  double gamma;
  c10::string_view box_loss;
  double smooth_l1_beta;
  at::ArrayRef<double> box_weights;
  double high_threshold;
  double low_threshold;
  bool allow_low_quality_matches;
  bool match_zero_iou;

  // Calls visit(name, argument) for every argument that is no tensor.
  template <class Visit>
  void for_each_option(const Visit& visit) {
    visit("strides", strides);
    visit("grid_sizes", grid_sizes);
    visit("alpha", alpha);
    visit("gamma", gamma);
    visit("box_loss", box_loss);
    visit("smooth_l1_beta", smooth_l1_beta);
    visit("box_weights", box_weights);
    visit("high_threshold", high_threshold);
    visit("low_threshold", low_threshold);
    visit("allow_low_quality_matches", allow_low_quality_matches);
    visit("match_zero_iou", match_zero_iou);
  }
};

using Losses = std::tuple<at::Tensor, at::Tensor>;  // classification, box; scalars

struct LossGradients {
  std::vector<at::Tensor> cls_logits;  // one per level, or none
  std::vector<at::Tensor> bbox_regression;
};

// Checks the arguments and matches the anchors. run() then computes the losses, and the gradients that were asked for
// by add_gradients().
class LossLaunch {
 public:
  explicit LossLaunch(const LossArguments& in);

  LossGradients add_gradients(bool of_logits, bool of_deltas);

  // Gradients are multiplied by the incoming ones, if there are any.
  Losses run(const at::Tensor& grad_classification = {}, const at::Tensor& grad_box = {});

 private:
  void match();

  const LossArguments& in_;
  RetinanetLossParams params_{};
  // The memory that params_ points at.
  AnchorsOf anchors_;
  GroundTruth truth_;
  at::Tensor labels_;          // [G]
  at::Tensor matches_;         // [B, A]
  at::Tensor num_foreground_;  // [B]
};

}  // namespace retinanet_fast
