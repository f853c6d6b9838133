// The box loss of one foreground anchor, for both devices.
#pragma once

#include "kernels/retinanet_loss.h"
#include "math/box_loss.h"

namespace retinanet_fast {

template <class C>
RETINANET_FAST_INLINE math::Box<C> gt_box(const RetinanetLossParams& p, int64_t index) {
  if (p.gt_dtype == DType::kFloat64) {
    const auto box = math::load_box(static_cast<const double*>(p.gt_boxes) + 4 * index);
    return {C(box.x1), C(box.y1), C(box.x2), C(box.y2)};
  }
  const auto box = math::load_box(static_cast<const float*>(p.gt_boxes) + 4 * index);
  return {C(box.x1), C(box.y1), C(box.x2), C(box.y2)};
}

// The loss of anchor k of cell (y, x) with the box in row `match` as its target; writes its gradient times
// `grad_scale`. T is the deltas' type.
template <class T>
RETINANET_FAST_INLINE math::ComputeType<T> foreground_box_loss(const RetinanetLossParams& p, int64_t l, int64_t image,
                                                               int64_t y, int64_t x, int64_t k, int32_t match,
                                                               double grad_scale) {
  using C = math::ComputeType<T>;
  const HeadLevel& level = p.head.levels[l];
  const HeadGradients& gradients = p.gradients[l];
  const LevelStrides& at = level.deltas_strides;
  const T* from = static_cast<const T*>(level.deltas) + image * at.image + 4 * k * at.channel + y * at.y + x * at.x;
  const math::Deltas<C> deltas = {math::load(from[0]), math::load(from[at.channel]), math::load(from[2 * at.channel]),
                                  math::load(from[3 * at.channel])};
  const int64_t index = level.first_anchor + (y * level.width + x) * p.head.anchors_per_cell + k;
  const math::Box<C> anchor = anchor_at<C>(p.anchors, index, l, y, x, k);
  const math::Box<C> target = gt_box<C>(p, match);
  const math::BoxWeights<C> weights(p.box_weights);
  const math::BoxLossTerm<C> term = p.box_loss == BoxLoss::kGiou
                                        ? math::giou_loss(deltas, anchor, target, weights, C(p.max_log_scale))
                                        : math::delta_loss(deltas, math::encode(target, anchor, weights),
                                                           p.box_loss == BoxLoss::kL1 ? C(0) : C(p.smooth_l1_beta));
  if (gradients.deltas) {
    const LevelStrides& to = gradients.deltas_strides;
    T* grad = static_cast<T*>(gradients.deltas) + image * to.image + 4 * k * to.channel + y * to.y + x * to.x;
    const C scale = C(grad_scale);
    math::store(grad[0], scale * term.grad.dx);
    math::store(grad[to.channel], scale * term.grad.dy);
    math::store(grad[2 * to.channel], scale * term.grad.dw);
    math::store(grad[3 * to.channel], scale * term.grad.dh);
  }
  return term.loss;
}

}  // namespace retinanet_fast
