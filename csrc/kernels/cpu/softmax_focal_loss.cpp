// Sixteen rows at a time, one per vector lane. Their logits pass through a small transposed array: once for the largest
// logit of each row, once for the sum of the others' exponentials and, for a gradient, once more for the exponentials
// themselves. A task is a tile of rows; its sum is kept in double, and tiles are added in order.
#include "kernels/softmax_focal_loss.h"

#include "kernels/cpu/bad_row.h"
#include "kernels/cpu/kernels.h"
#include "math/softmax_focal.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kChunk = 128;  // classes that are transposed at once
constexpr int64_t kAtOnce = 4;   // classes whose terms are added up before they go to a row's sum: fewer wait for it

static_assert(kSoftmaxFocalLossTile % kLanes == 0);

// `rows` <= kLanes consecutive rows, with one array per quantity.
template <class T>
class RowGroup {
  using C = ComputeType<T>;

 public:
  RowGroup(const SoftmaxFocalLossParams& params, int64_t first, int64_t rows)
      : p_(params),
        first_(first),
        rows_(rows),
        logits_(static_cast<const T*>(params.inputs) + first * params.classes),
        labels_(params.labels + first) {}

  // The first row whose label is no class, or -1.
  int64_t bad_row() const {
    for (int64_t row = 0; row < rows_; ++row) {
      if (labels_[row] < 0 || labels_[row] >= p_.classes) return first_ + row;
    }
    return -1;
  }

  // Returns the sum of the losses.
  double run() {
    find_largest();
    sum_others();
    C weight[kLanes] = {}, target[kLanes] = {}, loss[kLanes], slope[kLanes], slope_others[kLanes];
    for (int64_t row = 0; row < rows_; ++row) {
      target[row] = C(load(logits_[row * p_.classes + labels_[row]])) - top_[row];
      weight[row] = C(p_.scale * (p_.class_weights ? p_.class_weights[labels_[row]] : 1.0));
    }
    const C gamma = C(p_.gamma);
    for (int64_t row = 0; row < kLanes; ++row) {
      const SoftmaxFocalRow<C> result = softmax_focal_row(target[row], others_[row], gamma);
      loss[row] = weight[row] * result.loss;
      slope[row] = weight[row] * result.slope;
      slope_others[row] = weight[row] * result.slope_others;
    }
    double sum = 0;
    for (int64_t row = 0; row < rows_; ++row) {
      sum += double(loss[row]);
      if (p_.loss) store(static_cast<T*>(p_.loss)[first_ + row], loss[row]);
    }
    if (p_.grad_inputs) write_gradient(slope, slope_others);
    return sum;
  }

 private:
  // Calls f(first, n) with chunk_[j][row] the logit of class first + j for j < n. A single chunk is transposed once.
  template <class F>
  RETINANET_FAST_INLINE void for_each_chunk(const F& f) {
    for (int64_t first = 0; first < p_.classes; first += kChunk) {
      const int64_t n = min2(kChunk, p_.classes - first);
      if (chunk_first_ != first) {
        chunk_first_ = first;
        for (int64_t row = 0; row < rows_; ++row) {
          const T* from = logits_ + row * p_.classes + first;
          for (int64_t j = 0; j < n; ++j) chunk_[j][row] = load(from[j]);
        }
        for (int64_t row = rows_; row < kLanes; ++row) {
          for (int64_t j = 0; j < n; ++j) chunk_[j][row] = 0;
        }
        for (int64_t j = n; j < ceil_div(n, kAtOnce) * kAtOnce; ++j) {
          for (C& none : chunk_[j]) none = -std::numeric_limits<C>::infinity();
        }
      }
      f(first, n);
    }
  }

  // A NaN may get lost here; the sum of exponentials will be NaN all the same.
  void find_largest() {
    for (C& top : top_) top = -std::numeric_limits<C>::infinity();
    for_each_chunk([&](int64_t, int64_t n) {
      for (int64_t j = 0; j < n; j += kAtOnce) {
#pragma omp simd
        for (int64_t row = 0; row < kLanes; ++row) {
          const C first = max2(chunk_[j][row], chunk_[j + 1][row]);
          const C second = max2(chunk_[j + 2][row], chunk_[j + 3][row]);
          top_[row] = max2(max2(first, second), top_[row]);
        }
      }
    });
  }

  void sum_others() {
    int32_t label[kLanes] = {};
    for (int64_t row = 0; row < rows_; ++row) label[row] = int32_t(labels_[row]);
    for (C& others : others_) others = 0;
    for_each_chunk([&](int64_t first, int64_t n) {
      for (int64_t j = 0; j < n; j += kAtOnce) {
        const int32_t own = int32_t(first + j);
#pragma omp simd
        for (int64_t row = 0; row < kLanes; ++row) {
          const auto other = [&](int32_t i) {
            const C e = exp_nonpositive(chunk_[j + i][row] - top_[row]);
            return label[row] == own + i ? C(0) : e;
          };
          others_[row] += (other(0) + other(1)) + (other(2) + other(3));
        }
      }
    });
  }

  void write_gradient(const C* slope, const C* slope_others) {
    const T* each = p_.grad_output_is_scalar ? nullptr : static_cast<const T*>(p_.grad_output);
    const C one = p_.grad_output_is_scalar ? load_scalar<T>(p_.grad_output, p_.wide_scalars) : C(1);
    T* grad = static_cast<T*>(p_.grad_inputs) + first_ * p_.classes;
    C upstream[kLanes], factor[kLanes];
    for (int64_t row = 0; row < kLanes; ++row) {
      upstream[row] = each ? C(load(each[first_ + min2(row, rows_ - 1)])) : one;
      factor[row] = upstream[row] * slope_others[row];
    }
    for_each_chunk([&](int64_t first, int64_t n) {
      C value[kChunk][kLanes];
      for (int64_t j = 0; j < n; ++j) {
#pragma omp simd
        for (int64_t row = 0; row < kLanes; ++row) {
          value[j][row] = factor[row] * exp_nonpositive(chunk_[j][row] - top_[row]);
        }
      }
      for (int64_t row = 0; row < rows_; ++row) {
        T* to = grad + row * p_.classes + first;
        for (int64_t j = 0; j < n; ++j) store(to[j], value[j][row]);
      }
    });
    for (int64_t row = 0; row < rows_; ++row) {
      store(grad[row * p_.classes + labels_[row]], -upstream[row] * slope[row]);
    }
  }

  const SoftmaxFocalLossParams& p_;
  int64_t first_;
  int64_t rows_;
  const T* logits_;
  const int64_t* labels_;
  C top_[kLanes];
  C others_[kLanes];
  C chunk_[kChunk][kLanes];
  int64_t chunk_first_ = -1;
};

template <class T>
Status run(const SoftmaxFocalLossParams& p, const Executor& executor) {
  int64_t bad_row = -1;
  executor.parallel_for(softmax_focal_loss_tiles(p.rows), [&](int64_t index) {
    const int64_t end = min2(p.rows, (index + 1) * kSoftmaxFocalLossTile);
    double sum = 0;
    for (int64_t row = index * kSoftmaxFocalLossTile; row < end; row += kLanes) {
      RowGroup<T> group(p, row, min2(kLanes, end - row));
      const int64_t bad = group.bad_row();
      if (bad >= 0) return keep_lowest(bad_row, bad);
      sum += group.run();
    }
    if (p.partial_sums) p.partial_sums[index] = sum;
  });
  if (bad_row >= 0) return Status::bad_label(bad_row, p.labels[bad_row], 0, p.classes);
  if (p.sum) {
    double sum = 0;
    for (int64_t tile = 0; tile < softmax_focal_loss_tiles(p.rows); ++tile) sum += p.partial_sums[tile];
    store_scalar<T>(p.sum, ComputeType<T>(sum), p.wide_scalars);
  }
  return {};
}

}  // namespace

Status softmax_focal_loss(const SoftmaxFocalLossParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) { return run<decltype(zero)>(p, executor); });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
