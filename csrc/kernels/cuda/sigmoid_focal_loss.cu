// sigmoid_focal_loss: loss = a_t (1 - p_t)^gamma ce and its derivatives (math/focal.h), in one pass.
//
// One tile of kTile elements per block. A thread takes a vector of 16 bytes at a time, neighbours take neighbouring
// ones, and the next loads are under way while it computes. Almost all rows are background: only in another row does a
// thread look for the class among its elements. A label outside the classes is reported through host memory, its row
// ignored.
// Moves, in multiples of the logits' bytes: 1 for a sum, 2 with its gradient or for the losses or a gradient alone, one
// more for each of soft targets, their gradient and a grad_output that is no scalar. Labels come through the cache.
// Deterministic: a tile's losses are added in a tree of fixed shape, the tiles' sums in a fixed order by one block.
#include "kernels/sigmoid_focal_loss.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_cursor.cuh"
#include "kernels/cuda/sum.cuh"
#include "kernels/cuda/vector.cuh"
#include "math/focal.h"

namespace retinanet_fast {
inline namespace sigmoid_focal_loss_cu {

using namespace math;

constexpr int kThreads = 256;
// Blocks per multiprocessor: as many as the registers allow without spills.
template <class T, bool kSoft>
constexpr int kBlocks = kSoft || sizeof(T) == 8 ? 2 : 3;
// Elements per block. Partial sums are allocated for the CPU's tiles, which are not larger.
template <class T>
constexpr int kTile = sizeof(T) == 2 ? 2 * kSigmoidFocalLossTile : kSigmoidFocalLossTile;
constexpr int64_t kBackground = -1;
constexpr int64_t kIgnored = -2;

// The elements of one vector: logits in, losses and gradients out. A loss is added to `sum` where it is computed, so
// that it costs one multiply-add if nobody asks for the losses themselves.
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
      const FocalTerm<C> term = focal_background<T>(x[e], gamma, weights.background);
      sum += term.loss;
      loss[e] = term.loss;
      grad[e] = term.grad;
    }
  }

  // Whether the vector at `begin` lies in one row, which is not ignored and whose class is not among these elements.
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
          focal_background<T>(foreground ? -x[e] : x[e], gamma, foreground ? weights.foreground : weights.background);
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

  // Rarely asked for, and therefore computed on its own then, not always with the rest.
  __device__ __forceinline__ void soft_target_grads(const C (&x)[kCount], const C (&t)[kCount],
                                                    C (&grad)[kCount]) const {
#pragma unroll
    for (int e = 0; e < kCount; ++e) grad[e] = focal_soft(x[e], t[e], weights, gamma).grad_target;
  }

  __device__ __forceinline__ int64_t label_of(int64_t row) const {
    const int64_t label = p.labels[row];
    if (label >= kIgnored && label < p.classes) return label;
    if (p.bad_label) *p.bad_label = bad_label_code(row, label);
    return kIgnored;
  }
};

// A block's tile of each of the arrays [elements], which may be null.
template <class T, class Gamma, bool kSoft, bool kEach>
struct Tile {
  using C = ComputeType<T>;
  static constexpr int kCount = kVector<T>;

  const SigmoidFocalLossParams& p;
  Elements<T, Gamma> elements;
  int64_t first;  // element of the tile
  int32_t count;  // of elements
  const T* inputs;
  const T* targets;
  const T* factors;
  T* losses;
  T* grads;
  T* grads_targets;

  __device__ Tile(const SigmoidFocalLossParams& params, const Gamma& gamma)
      : p(params),
        elements{p, focal_weights<C>(p.alpha, p.scale * scalar_factor()), gamma},
        first(int64_t(blockIdx.x) * kTile<T>),
        count(int32_t(min2(p.elements - first, int64_t(kTile<T>)))),
        inputs(part_of<const T>(p.inputs)),
        targets(part_of<const T>(p.targets)),
        factors(kEach && !p.grad_output_is_scalar ? part_of<const T>(p.grad_output) : nullptr),
        losses(kEach ? part_of<T>(p.loss) : nullptr),
        grads(part_of<T>(p.grad_inputs)),
        grads_targets(part_of<T>(p.grad_targets)) {}

  __device__ double scalar_factor() const {
    return p.grad_output_is_scalar ? double(load_scalar<T>(p.grad_output, p.wide_scalars)) : 1.0;
  }

  template <class Element, class Void>
  __device__ Element* part_of(Void* array) const {
    return array ? static_cast<Element*>(array) + first : nullptr;
  }

  // Whether every vector can be accessed as one.
  __device__ bool is_whole() const {
    return count == kTile<T> && is_aligned(inputs) && is_aligned(targets) && is_aligned(factors) &&
           is_aligned(losses) && is_aligned(grads) && is_aligned(grads_targets);
  }

  // Whether all elements of a vector, which lie in one row or in two, are background.
  __device__ __forceinline__ bool is_background(const RowCursor& cursor, const RowStep& step) const {
    const int64_t* label = p.labels + cursor.first + cursor.row;
    return *label == kBackground && (cursor.left >= kCount || (step.length >= kCount && label[1] == kBackground));
  }

  // Returns the loss of the vector at `begin` and writes what was asked for; unless kWhole, element by element.
  template <bool kWhole>
  __device__ __forceinline__ C take(int32_t begin, const uint4& inputs_here, const uint4& targets_here,
                                    bool background) const {
    const int32_t end = kWhole ? begin + kCount : count;
    C x[kCount], loss[kCount], grad[kCount];
    C sum = 0;
    widen<T>(inputs_here, x);
    if constexpr (kSoft) {
      C t[kCount];
      widen<T>(targets_here, t);
      elements.with_soft_targets(x, t, loss, grad);
#pragma unroll
      for (int e = 0; e < kCount; ++e) sum += begin + e < end ? loss[e] : C(0);
      store_results<kWhole>(begin, end, loss, grad);
      if constexpr (kEach) {
        if (grads_targets) {
          elements.soft_target_grads(x, t, grad);
          scale_each<kWhole>(begin, end, grad);
          store_vector(grads_targets, begin, end, kWhole, grad);
        }
      }
    } else {
      if (background || elements.class_lies_elsewhere(first + begin)) {
        elements.background(x, loss, grad, sum);
      } else {
        elements.with_labels(first + begin, x, loss, grad, sum);
      }
      store_results<kWhole>(begin, end, loss, grad);
    }
    return sum;
  }

 private:
  template <bool kWhole>
  __device__ __forceinline__ void scale_each(int32_t begin, int32_t end, C (&grad)[kCount]) const {
    if (!factors) return;
    C factor[kCount];
    load_vector(factors, begin, end, kWhole, factor);
#pragma unroll
    for (int e = 0; e < kCount; ++e) grad[e] *= factor[e];
  }

  template <bool kWhole>
  __device__ __forceinline__ void store_results(int32_t begin, int32_t end, const C (&loss)[kCount],
                                                C (&grad)[kCount]) const {
    if constexpr (kEach) {
      scale_each<kWhole>(begin, end, grad);
      if (losses) store_vector(losses, begin, end, kWhole, loss);
    }
    if (grads) store_vector(grads, begin, end, kWhole, grad);
  }
};

// Sums the losses and writes the logits' gradients, which one factor scales. With kEach there may also be a loss, a
// factor and a target's gradient per element.
template <class T, class Gamma, bool kSoft, bool kEach>
__global__ void __launch_bounds__(kThreads, kBlocks<T, kSoft>)
    sigmoid_focal_loss_kernel(SigmoidFocalLossParams p, Gamma gamma, RowStep step) {
  constexpr int kCount = kVector<T>;
  constexpr int kInFlight = kSoft ? 1 : 2;
  constexpr int kStride = kThreads * kCount;
  static_assert(kTile<T> % (kStride * kInFlight) == 0);
  const Tile<T, Gamma, kSoft, kEach> tile(p, gamma);
  const int32_t thread = int32_t(threadIdx.x) * kCount;
  RowCursor cursor;
  if constexpr (!kSoft) cursor = RowCursor(tile.first + thread, p.classes);
  ComputeType<T> sum = 0;
  if (tile.is_whole()) {
    uint4 next[kInFlight], next_targets[kInFlight] = {};
    const auto read = [&](int32_t begin) {
#pragma unroll
      for (int v = 0; v < kInFlight; ++v) {
        next[v] = read_whole(tile.inputs + begin + v * kStride);
        if constexpr (kSoft) next_targets[v] = read_whole(tile.targets + begin + v * kStride);
      }
    };
    read(thread);
#pragma unroll 1
    for (int32_t i = thread; i < kTile<T>; i += kInFlight * kStride) {
      uint4 here[kInFlight], targets_here[kInFlight];
      bool background[kInFlight] = {};
#pragma unroll
      for (int v = 0; v < kInFlight; ++v) {
        here[v] = next[v];
        targets_here[v] = next_targets[v];
        if constexpr (!kSoft) {
          background[v] = tile.is_background(cursor, step);
          cursor.advance(step);
        }
      }
      if (i + kInFlight * kStride < kTile<T>) read(i + kInFlight * kStride);
#pragma unroll
      for (int v = 0; v < kInFlight; ++v) {
        sum += tile.template take<true>(i + v * kStride, here[v], targets_here[v], background[v]);
      }
    }
  } else {
#pragma unroll 1
    for (int32_t i = thread; i < tile.count; i += kStride) {
      uint4 targets_here{};
      if constexpr (kSoft) targets_here = read_vector(tile.targets, i, tile.count, false);
      sum += tile.template take<false>(i, read_vector(tile.inputs, i, tile.count, false), targets_here, false);
    }
  }
  if (p.partial_sums == nullptr) return;  // the same for the whole grid
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = total;
}

}  // namespace sigmoid_focal_loss_cu

Status sigmoid_focal_loss_cuda(const SigmoidFocalLossParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return dispatch_gamma<ComputeType<T>>(p.gamma, [&](auto gamma) {
      using Gamma = decltype(gamma);
      const int64_t tiles = ceil_div(p.elements, kTile<T>);
      const bool each = p.loss || p.grad_targets || (p.grad_output && !p.grad_output_is_scalar);
      const auto kernel = p.labels ? (each ? sigmoid_focal_loss_kernel<T, Gamma, false, true>
                                           : sigmoid_focal_loss_kernel<T, Gamma, false, false>)
                                   : (each ? sigmoid_focal_loss_kernel<T, Gamma, true, true>
                                           : sigmoid_focal_loss_kernel<T, Gamma, true, false>);
      const RowStep step(p.classes, kThreads * kVector<T>);
      const Status status = launch(kernel, blocks_of(tiles), dim3(kThreads), 0, stream, p, gamma, step);
      if (!status.ok() || p.sum == nullptr) return status;
      return sum_partials<T>(p.partial_sums, tiles, p.sum, p.wide_scalars, stream);
    });
  });
}

}  // namespace retinanet_fast
