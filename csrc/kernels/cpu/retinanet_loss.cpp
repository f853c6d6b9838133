// Every logit is read once, where it lies, in blocks of focal_block; loss and gradient are made together.
//
// A task is a piece of one level of one image. Where the positions of a channel lie side by side (NCHW) it is a run of
// positions in some channels of one anchor shape k: their matches become one array of weights, shared by the channels,
// in which the few foreground elements of a channel are marked and unmarked again. Where the channels of a position lie
// side by side (channels last) it is a run of cells. The box loss of a foreground anchor is added by the task that
// meets it. Each task leaves two sums, which are added in order: the same bits for any number of threads.
#include "kernels/retinanet_loss.h"

#include <type_traits>

#include "kernels/cpu/focal_block.h"
#include "kernels/cpu/kernels.h"
#include "kernels/retinanet_loss_box.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

namespace {

// n values of T at from[0], from[stride], ... of rows `row_stride` apart and `width` long, starting at position
// `first` of all rows.
struct Run {
  int64_t first;
  int64_t n;
  int64_t width;
  int64_t row_stride;
  int64_t stride;

  bool dense() const { return stride == 1 && (row_stride == width || first % width + n <= width); }
  int64_t begin() const { return first / width * row_stride + first % width * stride; }

  // f(i, offset): value i lies at `offset`.
  template <class F>
  RETINANET_FAST_INLINE void for_each(const F& f) const {
    int64_t x = first % width;
    int64_t row = first / width * row_stride;
    for (int64_t i = 0; i < n; row += row_stride, x = 0) {
      const int64_t end = min2(n, i + width - x);
      for (; i < end; ++i, ++x) f(i, row + x * stride);
    }
  }
};

// The values of a run in the computing type: where they lie, if they lie so, or copied to `array`.
template <class T, class C>
RETINANET_FAST_INLINE const C* read(const T* from, const Run& run, C* array) {
  if (!run.dense()) {
    run.for_each([&](int64_t i, int64_t offset) { array[i] = load(from[offset]); });
    return array;
  }
  from += run.begin();
  if constexpr (std::is_same_v<T, C>) return from;
  for (int64_t i = 0; i < run.n; ++i) array[i] = load(from[i]);
  return array;
}

// Where a run of T may be written by a loop over C: in place, or in `array`.
template <class T, class C>
RETINANET_FAST_INLINE C* write_target(T* to, const Run& run, C* array) {
  if constexpr (std::is_same_v<T, C>) {
    if (to && run.dense()) return to + run.begin();
  }
  return array;
}

// Moves `values` to their run, unless they were written in place.
template <class T, class C>
RETINANET_FAST_INLINE void write(T* to, const Run& run, const C* values) {
  if (!to) return;
  if (!run.dense()) {
    run.for_each([&](int64_t i, int64_t offset) { store(to[offset], values[i]); });
  } else if constexpr (!std::is_same_v<T, C>) {
    to += run.begin();
    for (int64_t i = 0; i < run.n; ++i) store(to[i], values[i]);
  }
}

// Foreground positions of a run, found by class.
class ForegroundList {
 public:
  void clear() {
    count_ = 0;
    for (int16_t& head : heads_) head = -1;
  }

  void add(int64_t position, int64_t label) {
    entries_[count_] = {label, int16_t(position), heads_[label % kBuckets]};
    heads_[label % kBuckets] = int16_t(count_++);
  }

  template <class F>
  RETINANET_FAST_INLINE void for_each_of_class(int64_t label, const F& f) const {
    for (int16_t i = heads_[label % kBuckets]; i >= 0; i = entries_[i].next) {
      if (entries_[i].label == label) f(entries_[i].position);
    }
  }

 private:
  static constexpr int64_t kBuckets = 64;
  struct Entry {
    int64_t label;
    int16_t position;
    int16_t next;  // in its bucket, or -1
  };
  Entry entries_[kLossPlanePositions];
  int16_t heads_[kBuckets];
  int count_;
};

template <class T, class Gamma>
class LossPass {
  using C = ComputeType<T>;

 public:
  LossPass(const RetinanetLossParams& params, const Gamma& gamma)
      : p_(params), gamma_(gamma), channels_(params.head.channels()) {
    grad_classification_ = upstream(params.grad_classification);
    grad_bbox_ = upstream(params.grad_bbox);
  }

  void run(const Executor& executor) const {
    const int64_t tasks = retinanet_loss_tasks(p_);
    executor.parallel_for(tasks, [&](int64_t task) {
      const Sums sums = run_task(task);
      p_.partial_sums[2 * task] = sums.classification;
      p_.partial_sums[2 * task + 1] = sums.bbox;
    });
    Sums total;
    for (int64_t task = 0; task < tasks; ++task) {
      total.classification += p_.partial_sums[2 * task];
      total.bbox += p_.partial_sums[2 * task + 1];
    }
    *static_cast<C*>(p_.classification) = C(total.classification);
    *static_cast<C*>(p_.bbox) = C(total.bbox);
  }

 private:
  struct Sums {
    double classification = 0;
    double bbox = 0;
  };

  // What a task needs to know about its level and image.
  struct Piece {
    int64_t l;
    const HeadLevel& level;
    LevelStrides grad_strides;  // of the logits' gradient
    int64_t image;
    const int32_t* matches;  // of the level's anchors in this image
    const T* logits;
    T* grad_logits;
    FocalWeights<C> weights;  // with the image's normalisation and the size of the incoming gradient
    double box_scale;         // the image's normalisation
  };

  static double upstream(const void* gradient) { return gradient ? double(*static_cast<const C*>(gradient)) : 1.0; }

  Sums run_task(int64_t task) const {
    int64_t l = 0;
    int64_t per_image = loss_tasks_per_image(p_, 0);
    while (task >= per_image * p_.head.batch_size) {
      task -= per_image * p_.head.batch_size;
      per_image = loss_tasks_per_image(p_, ++l);
    }
    const HeadLevel& level = p_.head.levels[l];
    const HeadGradients& gradients = p_.gradients[l];
    const int64_t image = task / per_image;
    const double scale =
        1.0 / (double(p_.num_foreground[image] > 1 ? p_.num_foreground[image] : 1) * double(p_.head.batch_size));
    T* grad_logits = static_cast<T*>(gradients.logits);
    const Piece piece{
        .l = l,
        .level = level,
        .grad_strides = gradients.logits_strides,
        .image = image,
        .matches = p_.matches + image * p_.anchors.num_anchors + level.first_anchor,
        .logits = static_cast<const T*>(level.logits) + image * level.logits_strides.image,
        .grad_logits = grad_logits ? grad_logits + image * gradients.logits_strides.image : nullptr,
        .weights = focal_weights<C>(p_.alpha, scale * std::abs(grad_classification_)),
        .box_scale = scale,
    };
    return walks_channel_rows(p_, l) ? channel_rows(piece, task % per_image) : planes(piece, task % per_image);
  }

  // ---- one block of logits --------------------------------------------------------------------------------------

  // Its loss; writes its gradient. `has_ignored` as in focal_block.
  double block(const T* logits, const Run& from, T* grad, const Run& to, const C* weights, bool has_ignored) const {
    C array[kFocalBlock], grad_array[kFocalBlock], loss[kFocalBlock];
    const C* x = read<T>(logits, from, array);
    C* out = write_target(grad, to, grad_array);
    const C sum = focal_block(x, weights, from.n, has_ignored, gamma_, loss, out);
    if (grad_classification_ < 0) {  // the sign of a weight says foreground, so that of the gradient goes on here
      for (int64_t i = 0; i < from.n; ++i) out[i] = -out[i];
    }
    write(grad, to, out);
    return double(sum);
  }

  // ---- positions side by side -----------------------------------------------------------------------------------

  // Some positions and classes of anchor shape k: channel after channel, so that memory is walked through in order.
  Sums planes(const Piece& piece, int64_t task) const {
    const HeadLevel& level = piece.level;
    const PlaneTasks tasks(p_.head, level);
    const int64_t first_class = task % tasks.class_pieces * tasks.classes;
    const int64_t end_class = min2(p_.head.num_classes, first_class + tasks.classes);
    const int64_t first = task / tasks.class_pieces % tasks.pieces * kLossPlanePositions;
    const int64_t n = min2(kLossPlanePositions, level.height * level.width - first);
    const int64_t k = task / (tasks.class_pieces * tasks.pieces);

    Sums sums;
    C weights[kLossPlanePositions];
    ForegroundList foreground;
    foreground.clear();
    bool has_ignored = false;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t match = piece.matches[(first + i) * p_.head.anchors_per_cell + k];
      weights[i] = match == kMatchIgnored ? C(0) : piece.weights.background;
      has_ignored |= match == kMatchIgnored;
      if (match >= 0) {
        foreground.add(i, p_.gt_labels[match]);
        if (first_class == 0) sums.bbox += box_loss(piece, first + i, k, match);
      }
    }
    for (int64_t c = first_class; c < end_class; ++c) {
      const int64_t channel = k * p_.head.num_classes + c;
      const T* logits = piece.logits + channel * level.logits_strides.channel;
      T* grad = piece.grad_logits ? piece.grad_logits + channel * piece.grad_strides.channel : nullptr;
      foreground.for_each_of_class(c, [&](int64_t i) { weights[i] = -piece.weights.foreground; });
      for (int64_t i = 0; i < n; i += kFocalBlock) {
        const int64_t count = min2(kFocalBlock, n - i);
        const Run from{first + i, count, level.width, level.logits_strides.y, level.logits_strides.x};
        const Run to{first + i, count, level.width, piece.grad_strides.y, piece.grad_strides.x};
        sums.classification += block(logits, from, grad, to, weights + i, has_ignored);
      }
      foreground.for_each_of_class(c, [&](int64_t i) { weights[i] = piece.weights.background; });
    }
    return sums;
  }

  // ---- channels side by side ------------------------------------------------------------------------------------

  Sums channel_rows(const Piece& piece, int64_t task) const {
    const HeadLevel& level = piece.level;
    const int64_t cells = level.height * level.width;
    const int64_t begin = task * loss_cells_per_task(channels_);
    const int64_t end = min2(cells, begin + loss_cells_per_task(channels_));
    // Cells that lie side by side too are one long run, cut into blocks wherever they end.
    const bool joined =
        joins_cells(level, level.logits_strides) && (!piece.grad_logits || joins_cells(level, piece.grad_strides));
    const int64_t step = joined ? end - begin : 1;
    RowWeights weights(p_, piece);
    Sums sums;
    for (int64_t cell = begin; cell < end; cell += step) {
      const int64_t y = cell / level.width;
      const int64_t x = cell - y * level.width;
      const T* logits = piece.logits + y * level.logits_strides.y + x * level.logits_strides.x;
      T* grad = piece.grad_logits ? piece.grad_logits + y * piece.grad_strides.y + x * piece.grad_strides.x : nullptr;
      const int32_t* matches = piece.matches + cell * p_.head.anchors_per_cell;
      const int64_t n = step * channels_;
      for (int64_t first = 0; first < n; first += kFocalBlock) {
        const Run run{first, min2(kFocalBlock, n - first), n, n, 1};
        weights.set(matches, first, run.n);
        sums.classification += block(logits, run, grad, run, weights.values(), weights.has_ignored());
      }
      for (int64_t i = 0; i < step * p_.head.anchors_per_cell; ++i) {
        if (matches[i] >= 0)
          sums.bbox += box_loss(piece, cell + i / p_.head.anchors_per_cell, i % p_.head.anchors_per_cell, matches[i]);
      }
    }
    return sums;
  }

  bool joins_cells(const HeadLevel& level, const LevelStrides& at) const {
    return (at.x == channels_ || level.width == 1) && (at.y == level.width * channels_ || level.height == 1);
  }

  // The weights of a block of channels, kept all background between the few blocks that are not.
  class RowWeights {
   public:
    RowWeights(const RetinanetLossParams& params, const Piece& piece) : p_(params), piece_(piece) {
      for (C& value : values_) value = piece.weights.background;
    }

    const C* values() const { return values_; }
    bool has_ignored() const { return has_ignored_; }

    // Channels [first, first + n) of the cell, and those behind it, whose anchors match `matches`.
    void set(const int32_t* matches, int64_t first, int64_t n) {
      if (dirty_) {
        for (C& value : values_) value = piece_.weights.background;
      }
      dirty_ = has_ignored_ = false;
      for (int64_t k = first / p_.head.num_classes; k * p_.head.num_classes < first + n; ++k) {
        if (matches[k] == kMatchBackground) continue;
        dirty_ = true;
        const int64_t begin = k * p_.head.num_classes - first;
        if (matches[k] == kMatchIgnored) {
          has_ignored_ = true;
          for (int64_t i = max2(begin, int64_t(0)); i < min2(begin + p_.head.num_classes, n); ++i) values_[i] = 0;
        } else {
          const int64_t i = begin + p_.gt_labels[matches[k]];
          if (i >= 0 && i < n) values_[i] = -piece_.weights.foreground;
        }
      }
    }

   private:
    const RetinanetLossParams& p_;
    const Piece& piece_;
    C values_[kFocalBlock];
    bool dirty_ = false;
    bool has_ignored_ = false;
  };

  // ---- foreground anchors ---------------------------------------------------------------------------------------

  // The normalised box loss of anchor k of a cell; writes its gradient.
  double box_loss(const Piece& piece, int64_t cell, int64_t k, int32_t match) const {
    const double loss = foreground_box_loss<T>(p_, piece.l, piece.image, cell, k, match, piece.box_scale * grad_bbox_);
    return loss * piece.box_scale;
  }

  const RetinanetLossParams& p_;
  const Gamma& gamma_;
  int64_t channels_;
  double grad_classification_;
  double grad_bbox_;
};

}  // namespace

Status retinanet_loss(const RetinanetLossParams& p, const Executor& executor) {
  return dispatch_dtype(p.head.logits_dtype, [&](auto zero) {
    using T = decltype(zero);
    return dispatch_gamma<ComputeType<T>>(p.gamma, [&](auto gamma) {
      LossPass<T, decltype(gamma)>(p, gamma).run(executor);
      return Status{};
    });
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
