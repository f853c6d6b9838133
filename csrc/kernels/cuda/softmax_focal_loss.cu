// softmax_focal_loss: loss = w_t (1 - p_t)^gamma (-log p_t) and its gradient (math/softmax_focal.h).
//
// Up to kMostHeld classes, eight lanes per row hold it in registers: a warp has four rows, so that what is computed
// once per row (a logarithm, a power) is done for four at a time. For more classes, one warp per row, which each pass
// reads again. Rows may begin at any element, so a lane loads one element at a time; a warp reads whole sectors all the
// same. Moves the logits once (further passes over a row hit the cache) and the gradient once. Deterministic: lanes are
// added in a tree of fixed shape, a thread's rows, warps and tiles in fixed order.
#include "kernels/softmax_focal_loss.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sum.cuh"
#include "math/softmax_focal.h"

namespace retinanet_fast {
inline namespace softmax_focal_loss_cu {

using namespace math;

constexpr int kThreads = 256;
constexpr int kMostHeld = 96;  // classes: 12 per lane

// The lanes of a row take the classes lane, lane + kLanes, ...
template <class T, int kLanes, bool kHolds>
struct Row {
  using C = ComputeType<T>;
  static constexpr int kHeld = kHolds ? kMostHeld / kLanes : 1;

  const T* logits;
  int32_t classes;
  int lane;
  C held[kHeld];  // logits, and then exp(logit - top)

  __device__ Row(const T* row, int64_t num_classes)
      : logits(row), classes(int32_t(num_classes)), lane(int(threadIdx.x) % kLanes) {
    if constexpr (kHolds) {
      for_each_held([&](int i, int32_t j) { held[i] = load(logits[j]); });
    }
  }

  template <class Body>
  __device__ __forceinline__ void for_each_held(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (lane + i * kLanes < classes) body(i, lane + i * kLanes);
    }
  }

  // A NaN may get lost.
  __device__ C top() const {
    C largest = -std::numeric_limits<C>::infinity();
    if constexpr (kHolds) {
      for_each_held([&](int i, int32_t) { largest = max2(held[i], largest); });
    } else {
      for (int32_t j = lane; j < classes; j += kLanes) largest = max2(load(logits[j]), largest);
    }
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      largest = max2(__shfl_xor_sync(0xffffffffu, largest, offset), largest);
    }
    return largest;
  }

  // Calls body(class, exp(logit - top)); `fresh` for the first call, which computes what is held.
  template <bool fresh, class Body>
  __device__ __forceinline__ void for_each_exp(C top, const Body& body) {
    if constexpr (kHolds) {
      for_each_held([&](int i, int32_t j) {
        if (fresh) held[i] = exp_nonpositive(held[i] - top);
        body(j, held[i]);
      });
    } else {
      for (int32_t j = lane; j < classes; j += kLanes) body(j, exp_nonpositive(load(logits[j]) - top));
    }
  }

  __device__ C sum_of_others(C top, int32_t label) {
    C sum = 0;
    for_each_exp<true>(top, [&](int32_t j, C e) { sum += j == label ? C(0) : e; });
    for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    return sum;  // the same on every lane
  }
};

// All lanes of a warp call this together, one row per kLanes of them. Returns the row's weighted loss on its first
// lane, 0 on the others.
template <class T, int kLanes, bool kHolds>
__device__ ComputeType<T> do_row(const SoftmaxFocalLossParams& p, int64_t index) {
  using C = ComputeType<T>;
  const bool inside = index < p.rows;
  const int64_t at = inside ? index * p.classes : 0;
  Row<T, kLanes, kHolds> row(static_cast<const T*>(p.inputs) + at, p.classes);
  const int64_t given = inside ? p.labels[index] : 0;
  const bool known = given >= 0 && given < p.classes;  // else the row has no loss
  if (!known && row.lane == 0 && p.bad_label) *p.bad_label = bad_label_code(index, given);
  const auto label = int32_t(known ? given : 0);

  const C top = row.top();
  const C others = row.sum_of_others(top, label);
  if (!inside) return C(0);
  const SoftmaxFocalRow<C> result = softmax_focal_row(C(load(row.logits[label]) - top), others, C(p.gamma));
  const C weight = C(p.scale * (p.class_weights ? p.class_weights[label] : 1.0));
  const C loss = known ? weight * result.loss : C(0);
  if (p.loss && row.lane == 0) store(static_cast<T*>(p.loss)[index], loss);
  if (p.grad_inputs) {
    T* grad = static_cast<T*>(p.grad_inputs) + at;
    const C upstream = p.grad_output_is_scalar ? load_scalar<T>(p.grad_output, p.wide_scalars)
                       : p.grad_output         ? load(static_cast<const T*>(p.grad_output)[index])
                                               : C(1);
    const C factor = weight * upstream;
    const C factor_others = factor * result.slope_others;
    row.template for_each_exp<false>(top, [&](int32_t j, C e) {
      const C value = j == label ? -factor * result.slope : factor_others * e;
      store(grad[j], known ? value : C(0));
    });
  }
  return row.lane == 0 ? loss : C(0);
}

template <class T, int kLanes, bool kHolds>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 3 : 5)
    softmax_focal_loss_kernel(SoftmaxFocalLossParams p) {
  constexpr int kRows = kThreads / kLanes;
  const int64_t first = int64_t(blockIdx.x) * kSoftmaxFocalLossTile + threadIdx.x / kLanes;
  ComputeType<T> sum = 0;
#pragma unroll 1
  for (int row = 0; row < kSoftmaxFocalLossTile; row += kRows) sum += do_row<T, kLanes, kHolds>(p, first + row);
  if (p.partial_sums == nullptr) return;  // the same for the whole grid
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = total;
}

}  // namespace softmax_focal_loss_cu

Status softmax_focal_loss_cuda(const SoftmaxFocalLossParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t tiles = softmax_focal_loss_tiles(p.rows);
    const auto kernel =
        p.classes <= kMostHeld ? softmax_focal_loss_kernel<T, 8, true> : softmax_focal_loss_kernel<T, 32, false>;
    const Status status = launch(kernel, blocks_of(tiles), dim3(kThreads), 0, stream, p);
    if (!status.ok() || p.sum == nullptr) return status;
    return sum_partials<T>(p.partial_sums, tiles, p.sum, p.wide_scalars, stream);
  });
}

}  // namespace retinanet_fast
