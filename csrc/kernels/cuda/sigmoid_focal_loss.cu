// sigmoid_focal_loss: loss = a_t (1 - p_t)^gamma ce and its derivatives (math/focal.h), in one pass.
//
// A block takes a tile of kSigmoidFocalLossTile elements, a thread 16 bytes of it at a time, neighbours side by side;
// four loads are under way before the first is used. Only where a vector's row has a label that is not background does
// a thread look at single elements.
// Moves, in multiples of the logits' bytes: 1 for a sum, 2 with its gradient or for the losses or a gradient alone, one
// more for each of soft targets, their gradient and a grad_output that is no scalar. Labels come through the cache.
// Deterministic: a tile's losses are added as trees of fixed shape, and one block adds the tiles' sums in order.
#include "kernels/sigmoid_focal_loss.h"

#include <cassert>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sum.cuh"
#include "kernels/cuda/vector.cuh"
#include "math/focal.h"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;
constexpr int64_t kIgnored = -2;

// The element at `column` of the row of this label.
template <class C, class Gamma>
__device__ __forceinline__ FocalTerm<C> labelled_term(C x, int64_t label, int64_t column,
                                                      const FocalWeights<C>& weights, const Gamma& gamma) {
  if (label == kIgnored) return {C(0), C(0)};
  const bool foreground = label == column;
  const FocalTerm<C> term = focal_background(foreground ? -x : x, gamma);
  const C weight = foreground ? weights.foreground : weights.background;
  return {weight * term.loss, (foreground ? -weight : weight) * term.grad};
}

// A vector's worth of elements: logits in, losses and gradients out.
template <class T, class Gamma>
struct Elements {
  using C = ComputeType<T>;
  static constexpr int kCount = kVector<T>;

  const SigmoidFocalLossParams& p;
  FocalWeights<C> weights;
  Gamma gamma;
  bool targets_aligned;

  __device__ __forceinline__ void with_labels(int64_t begin, const C (&x)[kCount], C (&loss)[kCount],
                                              C (&grad)[kCount]) const {
    int64_t row = begin / p.classes;
    int64_t column = begin - row * p.classes;
    int64_t label = label_of(row);
    // Nothing to look for if the vector lies in one row and that is background, or its class lies elsewhere.
    const bool plain =
        column + kCount <= p.classes && label != kIgnored && (label < column || label >= column + kCount);
    if (plain) {
#pragma unroll
      for (int e = 0; e < kCount; ++e) {
        const FocalTerm<C> term = focal_background(x[e], gamma);
        loss[e] = weights.background * term.loss;
        grad[e] = weights.background * term.grad;
      }
      return;
    }
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      if (begin + e < p.elements) {
        if (column == p.classes) {
          column = 0;
          label = label_of(++row);
        }
        const FocalTerm<C> term = labelled_term(x[e], label, column++, weights, gamma);
        loss[e] = term.loss;
        grad[e] = term.grad;
      } else {
        loss[e] = grad[e] = C(0);
      }
    }
  }

  __device__ __forceinline__ void with_soft_targets(int64_t begin, const C (&x)[kCount], C (&loss)[kCount],
                                                    C (&grad)[kCount], C (&grad_targets)[kCount]) const {
    C t[kCount];
    load_vector(static_cast<const T*>(p.targets), begin, p.elements, targets_aligned, t);
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const SoftFocalTerm<C> term = focal_soft(x[e], t[e], weights, gamma);
      const bool inside = begin + e < p.elements;
      loss[e] = inside ? term.loss : C(0);
      grad[e] = term.grad_logit;
      grad_targets[e] = term.grad_target;
    }
  }

  __device__ __forceinline__ int64_t label_of(int64_t row) const {
    const int64_t label = p.labels[row];
    assert(label >= kIgnored && label < p.classes && "sigmoid_focal_loss: expected targets in [-2, K)");
    return label;
  }
};

template <class T, class Gamma, bool kSoft>
__global__ void __launch_bounds__(kThreads) sigmoid_focal_loss_kernel(SigmoidFocalLossParams p, Gamma gamma) {
  using C = ComputeType<T>;
  constexpr int kCount = kVector<T>;
  constexpr int kInFlight = 4;
  constexpr int kStride = kThreads * kCount;
  static_assert(kSigmoidFocalLossTile % (kStride * kInFlight) == 0);

  const T* inputs = static_cast<const T*>(p.inputs);
  const T* grad_output = static_cast<const T*>(p.grad_output);
  T* losses = static_cast<T*>(p.loss);
  T* grad_inputs = static_cast<T*>(p.grad_inputs);
  T* grad_targets = static_cast<T*>(p.grad_targets);
  const bool aligned = is_aligned(inputs) && is_aligned(grad_output) && is_aligned(losses) && is_aligned(grad_inputs) &&
                       is_aligned(grad_targets);
  const double factor = p.grad_output_is_scalar ? double(load(*grad_output)) : 1.0;
  const Elements<T, Gamma> elements{p, focal_weights<C>(p.alpha, p.scale * factor), gamma, is_aligned(p.targets)};
  const bool has_factors = grad_output != nullptr && !p.grad_output_is_scalar;

  const int64_t tile_begin = int64_t(blockIdx.x) * kSigmoidFocalLossTile;
  C sum = 0;
  for (int64_t offset = 0; offset < kSigmoidFocalLossTile; offset += kStride * kInFlight) {
    const int64_t first = tile_begin + offset + int64_t(threadIdx.x) * kCount;
    C x[kInFlight][kCount];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) load_vector(inputs, first + j * kStride, p.elements, aligned, x[j]);
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const int64_t begin = first + j * kStride;
      if (begin >= p.elements) break;
      C loss[kCount], grad[kCount], grad_target[kCount];
      if constexpr (kSoft) {
        elements.with_soft_targets(begin, x[j], loss, grad, grad_target);
      } else {
        elements.with_labels(begin, x[j], loss, grad);
      }
#pragma unroll
      for (int e = 0; e < kCount; ++e) sum += loss[e];
      if (has_factors) {
        C factors[kCount];
        load_vector(grad_output, begin, p.elements, aligned, factors);
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
          grad[e] *= factors[e];
          if constexpr (kSoft) grad_target[e] *= factors[e];
        }
      }
      if (losses) store_vector(losses, begin, p.elements, aligned, loss);
      if (grad_inputs) store_vector(grad_inputs, begin, p.elements, aligned, grad);
      if constexpr (kSoft) {
        if (grad_targets) store_vector(grad_targets, begin, p.elements, aligned, grad_target);
      }
    }
  }
  if (p.partial_sums == nullptr) return;  // the same for the whole grid
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = total;
}

}  // namespace

Status sigmoid_focal_loss_cuda(const SigmoidFocalLossParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return dispatch_gamma<ComputeType<T>>(p.gamma, [&](auto gamma) {
      using Gamma = decltype(gamma);
      const dim3 grid(sigmoid_focal_loss_tiles(p.elements));
      const auto kernel =
          p.labels ? sigmoid_focal_loss_kernel<T, Gamma, false> : sigmoid_focal_loss_kernel<T, Gamma, true>;
      const Status status = launch(kernel, grid, dim3(kThreads), 0, stream, p, gamma);
      if (!status.ok() || p.sum == nullptr) return status;
      return launch(sum_partials_kernel<T, kThreads>, dim3(1), dim3(kThreads), 0, stream,
                    static_cast<const double*>(p.partial_sums), sigmoid_focal_loss_tiles(p.elements),
                    static_cast<T*>(p.sum));
    });
  });
}

}  // namespace retinanet_fast
