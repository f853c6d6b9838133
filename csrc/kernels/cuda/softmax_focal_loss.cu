// softmax_focal_loss: loss = w_t (1 - p_t)^gamma (-log p_t) and its gradient (math/softmax_focal.h).
//
// A warp a row, lane l taking the classes l, l + 32, ...; a block of eight warps takes kSoftmaxFocalLossTile rows. Rows
// start at any multiple of an element, so loads are an element a lane, which a warp reads as whole sectors.
// Moves the logits once (the second and third pass over a row hit the cache) and the gradient once.
// Deterministic: lanes are added as a tree, the rows of a warp, warps and tiles in order.
#include "kernels/softmax_focal_loss.h"

#include <cassert>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sum.cuh"
#include "math/softmax_focal.h"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kThreads = 256;
constexpr int kRowsOfWarp = int(kSoftmaxFocalLossTile) / (kThreads / 32);

// Every lane gets the largest of all lanes' values; a NaN may get lost.
template <class C>
__device__ __forceinline__ C warp_max(C x) {
  for (int offset = 16; offset > 0; offset /= 2) x = max2(__shfl_xor_sync(0xffffffffu, x, offset), x);
  return x;
}

// By all lanes of a warp together; returns the row's weighted loss, the same on every lane.
template <class T>
__device__ ComputeType<T> do_row(const SoftmaxFocalLossParams& p, int64_t row, int lane) {
  using C = ComputeType<T>;
  const T* x = static_cast<const T*>(p.inputs) + row * p.classes;
  const int64_t label = p.labels[row];
  assert(label >= 0 && label < p.classes && "softmax_focal_loss: expected targets in [0, C)");

  C top = -std::numeric_limits<C>::infinity();
  for (int64_t j = lane; j < p.classes; j += 32) top = max2(load(x[j]), top);
  top = warp_max(top);

  C others = 0;
  for (int64_t j = lane; j < p.classes; j += 32) {
    const C e = exp_nonpositive(load(x[j]) - top);
    others += j == label ? C(0) : e;
  }
  others = __shfl_sync(0xffffffffu, warp_sum(others), 0);

  const SoftmaxFocalRow<C> result = softmax_focal_row(C(load(x[label]) - top), others, C(p.gamma));
  const C weight = C(p.scale * (p.class_weights ? p.class_weights[label] : 1.0));
  if (p.loss && lane == 0) store(static_cast<T*>(p.loss)[row], weight * result.loss);
  if (p.grad_inputs) {
    T* grad = static_cast<T*>(p.grad_inputs) + row * p.classes;
    const T* grad_output = static_cast<const T*>(p.grad_output);
    const C factor = weight * (grad_output ? load(grad_output[p.grad_output_is_scalar ? 0 : row]) : C(1));
    const C factor_others = factor * result.slope_others;
    for (int64_t j = lane; j < p.classes; j += 32) {
      const C other = factor_others * exp_nonpositive(load(x[j]) - top);
      store(grad[j], j == label ? -factor * result.slope : other);
    }
  }
  return weight * result.loss;
}

template <class T>
__global__ void __launch_bounds__(kThreads) softmax_focal_loss_kernel(SoftmaxFocalLossParams p) {
  using C = ComputeType<T>;
  const int lane = threadIdx.x % 32;
  const int64_t first = int64_t(blockIdx.x) * kSoftmaxFocalLossTile + (threadIdx.x / 32) * kRowsOfWarp;
  C sum = 0;
  for (int64_t row = first; row < first + kRowsOfWarp && row < p.rows; ++row) {  // the same for a whole warp
    const C loss = do_row<T>(p, row, lane);
    sum += lane == 0 ? loss : C(0);
  }
  if (p.partial_sums == nullptr) return;  // the same for the whole grid
  const double total = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = total;
}

}  // namespace

Status softmax_focal_loss_cuda(const SoftmaxFocalLossParams& p, CudaStream stream) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const dim3 grid(softmax_focal_loss_tiles(p.rows));
    const Status status = launch(softmax_focal_loss_kernel<T>, grid, dim3(kThreads), 0, stream, p);
    if (!status.ok() || p.sum == nullptr) return status;
    return launch(sum_partials_kernel<T, kThreads>, dim3(1), dim3(kThreads), 0, stream,
                  static_cast<const double*>(p.partial_sums), softmax_focal_loss_tiles(p.rows), static_cast<T*>(p.sum));
  });
}

}  // namespace retinanet_fast
