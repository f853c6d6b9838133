// One tile of elements per task, in blocks that pass through small arrays in the first-level cache: widen, compute
// losses and derivatives together (one that nobody asked for costs a store there), multiply by grad_output, narrow.
// float32 and float64 are read and written in place. A tile's sum is kept in double, and tiles are added in order.
#include "kernels/sigmoid_focal_loss.h"

#include "kernels/cpu/bad_row.h"
#include "kernels/cpu/focal_block.h"
#include "kernels/cpu/kernels.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

namespace {

static_assert(kSigmoidFocalLossTile % kFocalBlock == 0);

constexpr int64_t kBackground = -1;
constexpr int64_t kIgnored = -2;

// The weights that focal_block takes, for one block after the other, from the labels of its rows.
template <class C>
class LabelledBlocks {
 public:
  LabelledBlocks(const SigmoidFocalLossParams& p, const FocalWeights<C>& weights, int64_t first_element)
      : labels_(p.labels),
        classes_(p.classes),
        per_kind_(weights),
        row_(first_element / p.classes),
        row_begin_(row_ * p.classes) {
    clear();
  }

  // Moves on to elements [begin, end); the block before ended at `begin`.
  void next(int64_t begin, int64_t end) {
    if (!all_background_) clear();
    for (; row_begin_ < end; ++row_, row_begin_ += classes_) {
      if (labels_[row_] != kBackground) mark(labels_[row_], begin, end);
      if (row_begin_ + classes_ > end) break;  // the row goes on in the next block
    }
  }

  const C* weights() const { return weights_; }
  bool has_ignored() const { return has_ignored_; }
  // The first row so far whose label is neither a class nor one of the two above, or -1.
  int64_t bad_row() const { return bad_row_; }

 private:
  void clear() {
    for (C& weight : weights_) weight = per_kind_.background;
    all_background_ = true;
    has_ignored_ = false;
  }

  void mark(int64_t label, int64_t begin, int64_t end) {
    all_background_ = false;
    if (label == kIgnored) {
      has_ignored_ = true;
      for (int64_t i = max2(begin, row_begin_); i < min2(end, row_begin_ + classes_); ++i) weights_[i - begin] = 0;
    } else if (label >= 0 && label < classes_) {
      const int64_t i = row_begin_ + label;
      if (i >= begin && i < end) weights_[i - begin] = -per_kind_.foreground;
    } else if (bad_row_ < 0) {
      bad_row_ = row_;
    }
  }

  C weights_[kFocalBlock];
  bool all_background_;
  bool has_ignored_;  // some weights are 0
  const int64_t* labels_;
  int64_t classes_;
  FocalWeights<C> per_kind_;
  int64_t row_;
  int64_t row_begin_;
  int64_t bad_row_ = -1;
};

// Where a block's results go: straight to `out` if that is of the computing type, else through an array.
template <class T, class C>
class Sink {
 public:
  Sink(void* out, int64_t begin) : out_(out ? static_cast<T*>(out) + begin : nullptr) {}

  C* values() {
    if constexpr (std::is_same_v<T, C>) return out_ ? out_ : array_;
    return array_;
  }

  // Multiplies the values by -1 if `negate`, and by factor[i] unless that is null, and narrows them.
  void finish(const T* factor, int64_t n, bool negate) {
    if (!out_) return;
    C* v = values();
    if (negate) {
      for (int64_t i = 0; i < n; ++i) v[i] = -v[i];
    }
    if (factor) {
      for (int64_t i = 0; i < n; ++i) v[i] *= load(factor[i]);
    }
    if constexpr (!std::is_same_v<T, C>) {
      for (int64_t i = 0; i < n; ++i) store(out_[i], v[i]);
    }
  }

 private:
  T* out_;
  C array_[kFocalBlock];
};

// `n` elements in the computing type: in place if they are of it, else widened into `array`.
template <class T, class C>
RETINANET_FAST_INLINE const C* widen(const void* from, int64_t begin, int64_t n, C* array) {
  const T* x = static_cast<const T*>(from) + begin;
  if constexpr (std::is_same_v<T, C>) return x;
  for (int64_t i = 0; i < n; ++i) array[i] = load(x[i]);
  return array;
}

template <class T, class Gamma>
Status run(const SigmoidFocalLossParams& p, const Gamma& gamma, const Executor& executor) {
  using C = ComputeType<T>;
  const T* grad_output = static_cast<const T*>(p.grad_output);
  const double factor =
      grad_output && p.grad_output_is_scalar ? double(load_scalar<T>(grad_output, p.wide_scalars)) : 1.0;
  // A weight's sign says foreground, so the weights hold the factor's size alone; its sign goes to the gradients.
  const bool negate = factor < 0;
  const FocalWeights<C> weights = focal_weights<C>(p.alpha, p.scale * (negate ? -factor : factor));
  int64_t bad_row = -1;
  executor.parallel_for(sigmoid_focal_loss_tiles(p.elements), [&](int64_t tile) {
    const int64_t tile_begin = tile * kSigmoidFocalLossTile;
    const int64_t tile_end = min2(p.elements, tile_begin + kSigmoidFocalLossTile);
    double sum = 0;
    const auto blocks = [&](const auto& block) {
      for (int64_t begin = tile_begin; begin < tile_end; begin += kFocalBlock) {
        const int64_t n = min2(kFocalBlock, tile_end - begin);
        C array[kFocalBlock];
        const C* x = widen<T>(p.inputs, begin, n, array);
        const T* factors = grad_output && !p.grad_output_is_scalar ? grad_output + begin : nullptr;
        Sink<T, C> loss(p.loss, begin), grad(p.grad_inputs, begin);
        sum += double(block(begin, n, x, factors, loss, grad));
        loss.finish(nullptr, n, false);
        grad.finish(factors, n, negate);
      }
    };
    if (p.labels) {
      LabelledBlocks<C> labelled(p, weights, tile_begin);
      blocks([&](int64_t begin, int64_t n, const C* x, const T*, auto& loss, auto& grad) {
        labelled.next(begin, begin + n);
        return focal_block(x, labelled.weights(), n, labelled.has_ignored(), gamma, loss.values(), grad.values());
      });
      if (labelled.bad_row() >= 0) keep_lowest(bad_row, labelled.bad_row());
    } else {
      blocks([&](int64_t begin, int64_t n, const C* x, const T* factors, auto& loss, auto& grad) {
        C array[kFocalBlock];
        const C* t = widen<T>(p.targets, begin, n, array);
        Sink<T, C> grad_targets(p.grad_targets, begin);
        const C result = focal_soft_block(x, t, n, weights, gamma, loss.values(), grad.values(), grad_targets.values());
        grad_targets.finish(factors, n, negate);
        return result;
      });
    }
    if (p.partial_sums) p.partial_sums[tile] = sum;
  });
  if (bad_row >= 0) return Status::bad_label(bad_row, p.labels[bad_row], kIgnored, p.classes);
  if (p.sum) {
    double sum = 0;
    for (int64_t tile = 0; tile < sigmoid_focal_loss_tiles(p.elements); ++tile) sum += p.partial_sums[tile];
    store_scalar<T>(p.sum, C(sum), p.wide_scalars);
  }
  return {};
}

}  // namespace

Status sigmoid_focal_loss(const SigmoidFocalLossParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    return dispatch_gamma<ComputeType<T>>(p.gamma, [&](auto gamma) { return run<T>(p, gamma, executor); });
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
