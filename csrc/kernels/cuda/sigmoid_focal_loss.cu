// sigmoid_focal_loss: loss = a_t (1 - p_t)^gamma ce and its derivatives (math/focal.h), in one pass.
//
// A block takes a tile of kSigmoidFocalLossTile elements, a thread 16 bytes of it at a time, neighbours side by side;
// two loads are under way before the first is used. Almost all rows are background: only where a vector's row is not
// does a thread look for its class among the elements.
// Moves, in multiples of the logits' bytes: 1 for a sum, 2 with its gradient or for the losses or a gradient alone, one
// more for each of soft targets, their gradient and a grad_output that is no scalar. Labels come through the cache.
// Deterministic: a tile's losses are added as trees of fixed shape, and one block adds the tiles' sums in order.
#include "kernels/sigmoid_focal_loss.h"

#include <cassert>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_cursor.cuh"
#include "kernels/cuda/sum.cuh"
#include "kernels/cuda/vector.cuh"
#include "math/focal.h"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;
// Blocks on a multiprocessor: as many as the registers allow without spills.
template <class T, bool kSoft>
constexpr int kBlocks = kSoft || sizeof(T) == 8 ? 2 : 3;
constexpr int64_t kBackground = -1;
constexpr int64_t kIgnored = -2;

// A vector's worth of elements: logits in, losses and gradients out. Losses are added to `sum` where they come about,
// so that each is one multiply-add if nothing else asks for them.
template <class T, class Gamma>
struct Elements {
  using C = ComputeType<T>;
  static constexpr int kCount = kVector<T>;

  const SigmoidFocalLossParams& p;
  FocalWeights<C> weights;
  Gamma gamma;

  __device__ __forceinline__ void background(const C (&x)[kCount], C (&loss)[kCount], C (&grad)[kCount], C& sum) const {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const FocalTerm<C> term = focal_background(x[e], gamma, weights.background);
      sum += term.loss;
      loss[e] = term.loss;
      grad[e] = term.grad;
    }
  }

  // Elements `begin` ... lie in one row, which is not ignored, and its class is not among them.
  __device__ __forceinline__ bool class_lies_elsewhere(int64_t begin) const {
    const int64_t row = begin / p.classes;
    const int64_t column = begin - row * p.classes;
    const int64_t label = label_of(row);
    return column + kCount <= p.classes && label != kIgnored && (label < column || label >= column + kCount);
  }

  __device__ __forceinline__ void with_labels(int64_t begin, const C (&x)[kCount], C (&loss)[kCount], C (&grad)[kCount],
                                              C& sum) const {
    int64_t row = begin / p.classes;
    int64_t column = begin - row * p.classes;
    int64_t label = label_of(row);
#pragma unroll
    for (int e = 0; e < kCount; ++e, ++column) {
      loss[e] = grad[e] = C(0);
      if (begin + e >= p.elements) continue;
      if (column == p.classes) {
        column = 0;
        label = label_of(++row);
      }
      if (label == kIgnored) continue;  // whatever the logit, NaN included
      const bool foreground = label == column;
      const FocalTerm<C> term =
          focal_background(foreground ? -x[e] : x[e], gamma, foreground ? weights.foreground : weights.background);
      sum += term.loss;
      loss[e] = term.loss;
      grad[e] = foreground ? -term.grad : term.grad;
    }
  }

  __device__ __forceinline__ void with_soft_targets(const C (&x)[kCount], const C (&t)[kCount], C (&loss)[kCount],
                                                    C (&grad)[kCount]) const {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const SoftFocalTerm<C> term = focal_soft(x[e], t[e], weights, gamma);
      loss[e] = term.loss;
      grad[e] = term.grad_logit;
    }
  }

  // Seldom asked for, and then computed again rather than always with the rest.
  __device__ __forceinline__ void soft_target_grads(const C (&x)[kCount], const C (&t)[kCount],
                                                    C (&grad)[kCount]) const {
#pragma unroll
    for (int e = 0; e < kCount; ++e) grad[e] = focal_soft(x[e], t[e], weights, gamma).grad_target;
  }

  __device__ __forceinline__ int64_t label_of(int64_t row) const {
    const int64_t label = p.labels[row];
    assert(label >= kIgnored && label < p.classes && "sigmoid_focal_loss: expected targets in [-2, K)");
    return label;
  }
};

// The tile's part of an array [elements], or null.
template <class T>
__device__ __forceinline__ T* part_of(void* array, int64_t tile) {
  return array ? static_cast<T*>(array) + tile : nullptr;
}
template <class T>
__device__ __forceinline__ const T* part_of(const void* array, int64_t tile) {
  return array ? static_cast<const T*>(array) + tile : nullptr;
}

// Losses are added up and gradients of the logits scaled by one factor; where kEach, there may also be a loss, a factor
// and a gradient of the target for each element.
template <class T, class Gamma, bool kSoft, bool kEach>
__global__ void __launch_bounds__(kThreads, kBlocks<T, kSoft>)
    sigmoid_focal_loss_kernel(SigmoidFocalLossParams p, Gamma gamma, RowStep step) {
  using C = ComputeType<T>;
  constexpr int kCount = kVector<T>;
  constexpr int kInFlight = 2;
  constexpr int kStride = kThreads * kCount;
  static_assert(kSigmoidFocalLossTile % (kStride * kInFlight) == 0);

  const int64_t tile = int64_t(blockIdx.x) * kSigmoidFocalLossTile;
  const int32_t count = int32_t(min2(p.elements - tile, kSigmoidFocalLossTile));
  const T* inputs = part_of<T>(p.inputs, tile);
  const T* targets = part_of<T>(p.targets, tile);
  const T* factors = kEach && !p.grad_output_is_scalar ? part_of<T>(p.grad_output, tile) : nullptr;
  T* losses = kEach ? part_of<T>(p.loss, tile) : nullptr;
  T* grads = part_of<T>(p.grad_inputs, tile);
  T* grads_targets = part_of<T>(p.grad_targets, tile);
  const bool aligned = is_aligned(inputs) && is_aligned(targets) && is_aligned(factors) && is_aligned(losses) &&
                       is_aligned(grads) && is_aligned(grads_targets);
  const double factor = p.grad_output_is_scalar ? double(load(*static_cast<const T*>(p.grad_output))) : 1.0;
  const Elements<T, Gamma> elements{p, focal_weights<C>(p.alpha, p.scale * factor), gamma};

  const int32_t thread = int32_t(threadIdx.x) * kCount;
  RowCursor cursor(kSoft ? 0 : tile + thread, kSoft ? 1 : p.classes);
  const int64_t* labels = kSoft ? nullptr : p.labels + cursor.first;
  C sum = 0;
  // Vectors i, i + kStride, ... of the tile, kVectors in all: whole and on 16 bytes, or else element by element.
  const auto take = [&](auto vectors, auto is_whole, int32_t i) {
    constexpr int kVectors = decltype(vectors)::value;
    constexpr bool kWhole = decltype(is_whole)::value;
    const auto end_of = [&](int32_t begin) { return kWhole ? begin + kCount : count; };

    uint4 inputs_here[kVectors], targets_here[kVectors];
    bool background[kVectors];
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int32_t begin = i + j * kStride;
      inputs_here[j] = read_vector(inputs, begin, end_of(begin), kWhole);
      if constexpr (kSoft) targets_here[j] = read_vector(targets, begin, end_of(begin), kWhole);
    }
    if constexpr (!kSoft) {
      // Whether all elements of a vector are background: one row's, or two rows'.
#pragma unroll
      for (int j = 0; j < kVectors; ++j, cursor.advance(step)) {
        const int64_t* label = labels + cursor.row;
        background[j] = (kWhole || i + kCount <= count) && *label == kBackground;
        if (background[j] && cursor.left < kCount) background[j] = step.length >= kCount && label[1] == kBackground;
      }
    }
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int32_t begin = i + j * kStride;
      const int32_t end = end_of(begin);
      C x[kCount], t[kCount], loss[kCount], grad[kCount], factor[kCount];
      widen<T>(inputs_here[j], x);
      if constexpr (kSoft) {
        widen<T>(targets_here[j], t);
        elements.with_soft_targets(x, t, loss, grad);
#pragma unroll
        for (int e = 0; e < kCount; ++e) sum += begin + e < end ? loss[e] : C(0);
      } else if (background[j] || elements.class_lies_elsewhere(tile + begin)) {
        elements.background(x, loss, grad, sum);
      } else {
        elements.with_labels(tile + begin, x, loss, grad, sum);
      }
      if constexpr (kEach) {
        if (factors) {
          load_vector(factors, begin, end, kWhole, factor);
#pragma unroll
          for (int e = 0; e < kCount; ++e) grad[e] *= factor[e];
        }
        if (losses) store_vector(losses, begin, end, kWhole, loss);
      }
      if (grads) store_vector(grads, begin, end, kWhole, grad);
      if constexpr (kSoft && kEach) {
        if (grads_targets) {
          elements.soft_target_grads(x, t, grad);
          if (factors) {
#pragma unroll
            for (int e = 0; e < kCount; ++e) grad[e] *= factor[e];
          }
          store_vector(grads_targets, begin, end, kWhole, grad);
        }
      }
    }
  };
  if (aligned && count == kSigmoidFocalLossTile) {
#pragma unroll 1
    for (int32_t i = thread; i < kSigmoidFocalLossTile; i += kStride * kInFlight) {
      take(std::integral_constant<int, kInFlight>{}, std::true_type{}, i);
    }
  } else {
#pragma unroll 1
    for (int32_t i = thread; i < count; i += kStride) take(std::integral_constant<int, 1>{}, std::false_type{}, i);
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
      const bool each = p.loss || p.grad_targets || (p.grad_output && !p.grad_output_is_scalar);
      const auto kernel = p.labels ? (each ? sigmoid_focal_loss_kernel<T, Gamma, false, true>
                                           : sigmoid_focal_loss_kernel<T, Gamma, false, false>)
                                   : (each ? sigmoid_focal_loss_kernel<T, Gamma, true, true>
                                           : sigmoid_focal_loss_kernel<T, Gamma, true, false>);
      const RowStep step(p.classes, kThreads * kVector<T>);
      const Status status = launch(kernel, grid, dim3(kThreads), 0, stream, p, gamma, step);
      if (!status.ok() || p.sum == nullptr) return status;
      return launch(sum_partials_kernel<T, kThreads>, dim3(1), dim3(kThreads), 0, stream,
                    static_cast<const double*>(p.partial_sums), sigmoid_focal_loss_tiles(p.elements),
                    static_cast<T*>(p.sum));
    });
  });
}

}  // namespace retinanet_fast
