// The focal loss of a block of consecutive logits, in vector code: both sigmoid losses on the CPU are made of it.
#pragma once

#include "kernels/common.h"
#include "math/focal.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

// Elements: enough that the loop's ends do not matter, and few enough that several arrays stay in the L1 cache.
constexpr int64_t kFocalBlock = 1024;

// As focal_block; the logits of elements of weight 0 must be finite unless kMasksIgnored.
template <bool kMasksIgnored, class C, class Gamma>
RETINANET_FAST_INLINE C focal_block_pass(const C* __restrict logits, const C* __restrict weights, int64_t n,
                                         const Gamma& gamma, C* __restrict loss, C* __restrict grad) {
  C sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const C weight = weights[i];
    const C logit = logits[i];
    const C x = kMasksIgnored && weight == C(0) ? C(0) : logit;
    const FocalTerm<C> term = focal_background(flip_sign(x, weight), gamma, weight);
    const C positive = -negative_abs(term.loss);
    loss[i] = positive;
    grad[i] = term.grad;
    sum += positive;
  }
  return sum;
}

// Writes n weighted losses and derivatives d loss / d logit, and returns the sum of the losses. weights[i] is positive
// for a background element and negative for a foreground one, whose loss is that of background at -x. An element of
// weight 0 is ignored: it has no loss, whatever its logit. `has_ignored` says that there may be one.
template <class C, class Gamma>
RETINANET_FAST_INLINE C focal_block(const C* __restrict logits, const C* __restrict weights, int64_t n,
                                    bool has_ignored, const Gamma& gamma, C* __restrict loss, C* __restrict grad) {
  const C sum = focal_block_pass<false>(logits, weights, n, gamma, loss, grad);
  // The NaN or infinity of an ignored element makes the sum a NaN. That is rare: the block is done again without it.
  return has_ignored && sum != sum ? focal_block_pass<true>(logits, weights, n, gamma, loss, grad) : sum;
}

// The same for soft targets. Returns the sum of the losses.
template <class C, class Gamma>
RETINANET_FAST_INLINE C focal_soft_block(const C* __restrict logits, const C* __restrict targets, int64_t n,
                                         const FocalWeights<C>& weights, const Gamma& gamma, C* __restrict loss,
                                         C* __restrict grad_logits, C* __restrict grad_targets) {
  C sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const SoftFocalTerm<C> term = focal_soft(logits[i], targets[i], weights, gamma);
    loss[i] = term.loss;
    grad_logits[i] = term.grad_logit;
    grad_targets[i] = term.grad_target;
    sum += term.loss;
  }
  return sum;
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
