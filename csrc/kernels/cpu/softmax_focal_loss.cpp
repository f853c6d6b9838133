// A tile of rows a task, a row at a time: the largest logit, the sum of the others' exponentials, and where the
// gradient is asked for the exponentials once more; each a vector loop over the classes. A tile's sum is kept in
// double, and tiles are added in order.
#include "kernels/softmax_focal_loss.h"

#include "kernels/cpu/bad_row.h"
#include "kernels/cpu/kernels.h"
#include "math/softmax_focal.h"

namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL {

using namespace math;

namespace {

template <class T, class C>
C largest(const T* x, int64_t n) {
  C top = -std::numeric_limits<C>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; ++j) top = max2(load(x[j]), top);
  return top;
}

template <class T, class C>
C sum_of_exponentials(const T* x, int64_t n, C top) {
  C sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += exp_nonpositive(load(x[j]) - top);
  return sum;
}

template <class T>
Status run(const SoftmaxFocalLossParams& p, const Executor& executor) {
  using C = ComputeType<T>;
  const T* grad_output = static_cast<const T*>(p.grad_output);
  int64_t bad_row = -1;

  // Returns the row's weighted loss.
  const auto do_row = [&](int64_t row) -> C {
    const T* x = static_cast<const T*>(p.inputs) + row * p.classes;
    const int64_t label = p.labels[row];
    if (label < 0 || label >= p.classes) {
      keep_lowest(bad_row, row);
      return C(0);
    }
    const C top = largest<T, C>(x, p.classes);
    const C others =
        sum_of_exponentials(x, label, top) + sum_of_exponentials(x + label + 1, p.classes - label - 1, top);
    const SoftmaxFocalRow<C> result = softmax_focal_row(C(load(x[label]) - top), others, C(p.gamma));
    const C weight = C(p.scale * (p.class_weights ? p.class_weights[label] : 1.0));
    if (p.loss) store(static_cast<T*>(p.loss)[row], weight * result.loss);
    if (p.grad_inputs) {
      T* grad = static_cast<T*>(p.grad_inputs) + row * p.classes;
      const C factor = weight * (grad_output ? load(grad_output[p.grad_output_is_scalar ? 0 : row]) : C(1));
      const C factor_others = factor * result.slope_others;
      for (int64_t j = 0; j < p.classes; ++j) store(grad[j], factor_others * exp_nonpositive(load(x[j]) - top));
      store(grad[label], -factor * result.slope);
    }
    return weight * result.loss;
  };

  executor.parallel_for(softmax_focal_loss_tiles(p.rows), [&](int64_t tile) {
    const int64_t end = min2(p.rows, (tile + 1) * kSoftmaxFocalLossTile);
    double sum = 0;
    for (int64_t row = tile * kSoftmaxFocalLossTile; row < end; ++row) sum += double(do_row(row));
    if (p.partial_sums) p.partial_sums[tile] = sum;
  });
  if (bad_row >= 0) return Status::bad_label(bad_row, p.labels[bad_row], 0, p.classes);
  if (p.sum) {
    double sum = 0;
    for (int64_t tile = 0; tile < softmax_focal_loss_tiles(p.rows); ++tile) sum += p.partial_sums[tile];
    store(*static_cast<T*>(p.sum), C(sum));
  }
  return {};
}

}  // namespace

Status softmax_focal_loss(const SoftmaxFocalLossParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) { return run<decltype(zero)>(p, executor); });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL
