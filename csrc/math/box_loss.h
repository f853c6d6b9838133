// The loss of a foreground anchor's four deltas, and its derivatives.
#pragma once

#include "math/box_coding.h"

namespace retinanet_fast::math {

template <class T>
struct BoxLossTerm {
  T loss;
  Deltas<T> grad;  // d loss / d deltas
};

// |d|, and its sign (0 at 0).
template <class T>
RETINANET_FAST_INLINE T l1(T d, T& grad) {
  grad = T(d > T(0)) - T(d < T(0));
  return std::abs(d);
}

// d^2 / (2 beta) for |d| < beta, else |d| - beta / 2 (Girshick, https://arxiv.org/abs/1504.08083, with a scale beta).
template <class T>
RETINANET_FAST_INLINE T smooth_l1(T d, T beta, T& grad) {
  T sign;
  const T absolute = l1(d, sign);
  const bool inner = absolute < beta;
  grad = inner ? d / beta : sign;
  return inner ? T(0.5) * d * d / beta : absolute - T(0.5) * beta;
}

// Smooth L1 of the differences between the deltas and those of the target; L1 for beta = 0.
template <class T>
RETINANET_FAST_INLINE BoxLossTerm<T> delta_loss(const Deltas<T>& deltas, const Deltas<T>& target, T beta) {
  BoxLossTerm<T> term;
  term.loss = smooth_l1(deltas.dx - target.dx, beta, term.grad.dx);
  term.loss += smooth_l1(deltas.dy - target.dy, beta, term.grad.dy);
  term.loss += smooth_l1(deltas.dw - target.dw, beta, term.grad.dw);
  term.loss += smooth_l1(deltas.dh - target.dh, beta, term.grad.dh);
  return term;
}

// 1 - GIoU (Rezatofighi et al., https://arxiv.org/abs/1902.09630) of the decoded box b and its target t:
//   1 - I / (U + eps) + (H - U) / (H + eps),  I intersection, U = B + T - I union, H area of the hull.
// Corners that coincide share the gradient evenly, as in torch.minimum and torch.maximum.
template <class T>
RETINANET_FAST_INLINE BoxLossTerm<T> giou_loss(const Deltas<T>& deltas, const Box<T>& anchor, const Box<T>& t,
                                               const BoxWeights<T>& weights, T max_log_scale) {
  constexpr T kEps = T(1e-7);
  const Box<T> b = decode(deltas, anchor, weights, max_log_scale);
  const T width = min2(b.x2, t.x2) - max2(b.x1, t.x1);
  const T height = min2(b.y2, t.y2) - max2(b.y1, t.y1);
  const T w = max2(T(0), width);
  const T h = max2(T(0), height);
  const T hull_w = max2(b.x2, t.x2) - min2(b.x1, t.x1);
  const T hull_h = max2(b.y2, t.y2) - min2(b.y1, t.y1);
  const T inter = w * h;
  const T hull = hull_w * hull_h;
  const T union_ = area(b) + area(t) - inter;
  BoxLossTerm<T> term;
  term.loss = T(1) - inter / (union_ + kEps) + (hull - union_) / (hull + kEps);

  const T d_union = inter / ((union_ + kEps) * (union_ + kEps)) - T(1) / (hull + kEps);
  const T d_inter = T(-1) / (union_ + kEps) - d_union;  // U = B + T - I
  const T d_hull = T(1) / (hull + kEps) - (hull - union_) / ((hull + kEps) * (hull + kEps));
  const T d_width = width >= T(0) ? d_inter * h : T(0);  // I = w h, w = clamp(width, 0)
  const T d_height = height >= T(0) ? d_inter * w : T(0);
  const T d_hull_w = d_hull * hull_h;
  const T d_hull_h = d_hull * hull_w;
  const T b_width = d_union * (b.y2 - b.y1);  // d B / d (x2 - x1)
  const T b_height = d_union * (b.x2 - b.x1);
  const Box<T> grad_box = {
      -d_width * max_share(b.x1, t.x1) - d_hull_w * max_share(t.x1, b.x1) - b_width,
      -d_height * max_share(b.y1, t.y1) - d_hull_h * max_share(t.y1, b.y1) - b_height,
      d_width * max_share(t.x2, b.x2) + d_hull_w * max_share(b.x2, t.x2) + b_width,
      d_height * max_share(t.y2, b.y2) + d_hull_h * max_share(b.y2, t.y2) + b_height,
  };
  Box<T> grad_anchor;
  decode_backward(deltas, anchor, weights, max_log_scale, grad_box, term.grad, grad_anchor);
  return term;
}

}  // namespace retinanet_fast::math
