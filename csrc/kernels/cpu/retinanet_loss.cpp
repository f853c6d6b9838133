// Every logit is read once, where it lies, one block (focal_block.h) at a time; loss and gradient are made together.
//
// A task lies in one level of one image. Where the positions of a channel lie side by side (NCHW) it has consecutive
// positions in some channels of one anchor shape k: their matches become one array of weights, which the channels
// share; a channel's few foreground elements are marked in it for that channel alone. Where the channels of a position
// lie side by side (channels last) a task has consecutive cells. The box loss of a foreground anchor is added by the
// task that meets it. Each task leaves two sums, which are added in order: the same bits for any number of threads.
#include "kernels/retinanet_loss.h"

#include <type_traits>

#include "kernels/cpu/focal_block.h"
#include "kernels/cpu/kernels.h"
#include "kernels/retinanet_loss_box.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

namespace {

// The n positions from `first` on, counted along rows of `width` positions. Neighbours in a row are `stride` elements
// apart in memory, rows `row_stride`.
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

// The values of a run in the computing type: in place if they are dense and of that type, else copied to `array`.
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

// Where a loop writes the values of a run: in place if they are dense and of the computing type, else in `array`.
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

// The foreground positions of a task, found by class.
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

// foreground_box_loss for the deltas' type, which may be another than the logits'. Called for foreground anchors alone.
using ForegroundBoxLoss = double (*)(const RetinanetLossParams&, int64_t l, int64_t image, int64_t y, int64_t x,
                                     int64_t k, int32_t match, double grad_scale);

template <class T>
ForegroundBoxLoss box_loss_of() {
  return [](const RetinanetLossParams& p, int64_t l, int64_t image, int64_t y, int64_t x, int64_t k, int32_t match,
            double grad_scale) { return double(foreground_box_loss<T>(p, l, image, y, x, k, match, grad_scale)); };
}

template <class T, class Gamma>
class LossPass {
  using C = ComputeType<T>;

 public:
  LossPass(const RetinanetLossParams& params, const Gamma& gamma)
      : p_(params),
        gamma_(gamma),
        box_loss_(dispatch_dtype(params.head.deltas_dtype, [](auto zero) { return box_loss_of<decltype(zero)>(); })),
        channels_(params.head.channels()) {
    grad_classification_ = upstream(params.grad_classification);
    grad_box_ = upstream(params.grad_box);
  }

  void run(const Executor& executor) const {
    const int64_t tasks = retinanet_loss_tasks(p_);
    executor.parallel_for(tasks, [&](int64_t task) {
      const Sums sums = run_task(task);
      p_.partial_sums[2 * task] = sums.classification;
      p_.partial_sums[2 * task + 1] = sums.box;
    });
    Sums total;
    for (int64_t task = 0; task < tasks; ++task) {
      total.classification += p_.partial_sums[2 * task];
      total.box += p_.partial_sums[2 * task + 1];
    }
    *static_cast<C*>(p_.classification) = C(total.classification);
    *static_cast<C*>(p_.box) = C(total.box);
  }

 private:
  struct Sums {
    double classification = 0;
    double box = 0;
  };

  // What a task needs to know about its level and image.
  struct LevelOfImage {
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
    const LevelOfImage image_level{
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
    return walks_channel_rows(p_, l) ? channel_rows(image_level, task % per_image)
                                     : planes(image_level, task % per_image);
  }

  // ---- one block of logits --------------------------------------------------------------------------------------

  // Returns the block's loss and writes its gradient. `has_ignored` as in focal_block.
  double block(const T* logits, const Run& from, T* grad, const Run& to, const C* weights, bool has_ignored) const {
    C array[kFocalBlock], grad_array[kFocalBlock], loss[kFocalBlock];
    const C* x = read<T>(logits, from, array);
    C* out = write_target(grad, to, grad_array);
    const C sum = focal_block(x, weights, from.n, has_ignored, gamma_, loss, out);
    if (grad_classification_ < 0) {  // a weight's sign says foreground, so the weights hold the factor's size alone
      for (int64_t i = 0; i < from.n; ++i) out[i] = -out[i];
    }
    write(grad, to, out);
    return double(sum);
  }

  // ---- positions side by side -----------------------------------------------------------------------------------

  // Some positions and classes of anchor shape k: channel after channel, so that memory is read in order.
  Sums planes(const LevelOfImage& image_level, int64_t task) const {
    const HeadLevel& level = image_level.level;
    const PlaneTasks tasks(p_.head, level);
    const int64_t first_class = task % tasks.class_tasks * tasks.classes_per_task;
    const int64_t end_class = min2(p_.head.num_classes, first_class + tasks.classes_per_task);
    const int64_t first = task / tasks.class_tasks % tasks.position_tasks * kLossPlanePositions;
    const int64_t n = min2(kLossPlanePositions, level.height * level.width - first);
    const int64_t k = task / (tasks.class_tasks * tasks.position_tasks);

    Sums sums;
    C weights[kLossPlanePositions];
    ForegroundList foreground;
    foreground.clear();
    bool has_ignored = false;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t match = image_level.matches[(first + i) * p_.head.anchors_per_cell + k];
      weights[i] = match == kMatchIgnored ? C(0) : image_level.weights.background;
      has_ignored |= match == kMatchIgnored;
      if (match >= 0) {
        foreground.add(i, p_.gt_labels[match]);
        if (first_class == 0) sums.box += box_loss(image_level, first + i, k, match);
      }
    }
    for (int64_t c = first_class; c < end_class; ++c) {
      const int64_t channel = k * p_.head.num_classes + c;
      const T* logits = image_level.logits + channel * level.logits_strides.channel;
      T* grad =
          image_level.grad_logits ? image_level.grad_logits + channel * image_level.grad_strides.channel : nullptr;
      foreground.for_each_of_class(c, [&](int64_t i) { weights[i] = -image_level.weights.foreground; });
      for (int64_t i = 0; i < n; i += kFocalBlock) {
        const int64_t count = min2(kFocalBlock, n - i);
        const Run from{first + i, count, level.width, level.logits_strides.y, level.logits_strides.x};
        const Run to{first + i, count, level.width, image_level.grad_strides.y, image_level.grad_strides.x};
        sums.classification += block(logits, from, grad, to, weights + i, has_ignored);
      }
      foreground.for_each_of_class(c, [&](int64_t i) { weights[i] = image_level.weights.background; });
    }
    return sums;
  }

  // ---- channels side by side ------------------------------------------------------------------------------------

  Sums channel_rows(const LevelOfImage& image_level, int64_t task) const {
    const HeadLevel& level = image_level.level;
    const int64_t cells = level.height * level.width;
    const int64_t begin = task * loss_cells_per_task(channels_);
    const int64_t end = min2(cells, begin + loss_cells_per_task(channels_));
    // Where cells lie side by side too, all channels of the task are one run, and a block may end within a cell.
    const bool joined = joins_cells(level, level.logits_strides) &&
                        (!image_level.grad_logits || joins_cells(level, image_level.grad_strides));
    const int64_t step = joined ? end - begin : 1;
    RowWeights weights(p_, image_level);
    Sums sums;
    for (int64_t cell = begin; cell < end; cell += step) {
      const int64_t y = cell / level.width;
      const int64_t x = cell - y * level.width;
      const T* logits = image_level.logits + y * level.logits_strides.y + x * level.logits_strides.x;
      T* grad = image_level.grad_logits
                    ? image_level.grad_logits + y * image_level.grad_strides.y + x * image_level.grad_strides.x
                    : nullptr;
      const int32_t* matches = image_level.matches + cell * p_.head.anchors_per_cell;
      const int64_t n = step * channels_;
      for (int64_t first = 0; first < n; first += kFocalBlock) {
        const Run run{first, min2(kFocalBlock, n - first), n, n, 1};
        weights.set(matches, first, run.n);
        sums.classification += block(logits, run, grad, run, weights.values(), weights.has_ignored());
      }
      for (int64_t i = 0; i < step * p_.head.anchors_per_cell; ++i) {
        if (matches[i] >= 0)
          sums.box +=
              box_loss(image_level, cell + i / p_.head.anchors_per_cell, i % p_.head.anchors_per_cell, matches[i]);
      }
    }
    return sums;
  }

  bool joins_cells(const HeadLevel& level, const LevelStrides& at) const {
    return (at.x == channels_ || level.width == 1) && (at.y == level.width * channels_ || level.height == 1);
  }

  // The weights of a block of channels. Most blocks are background alone, so the array is reset only after another one.
  class RowWeights {
   public:
    RowWeights(const RetinanetLossParams& params, const LevelOfImage& image_level)
        : p_(params), image_level_(image_level) {
      for (C& value : values_) value = image_level.weights.background;
    }

    const C* values() const { return values_; }
    bool has_ignored() const { return has_ignored_; }

    // For the n channels from `first` on, counted from the cell whose anchors begin at `matches`.
    void set(const int32_t* matches, int64_t first, int64_t n) {
      if (dirty_) {
        for (C& value : values_) value = image_level_.weights.background;
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
          if (i >= 0 && i < n) values_[i] = -image_level_.weights.foreground;
        }
      }
    }

   private:
    const RetinanetLossParams& p_;
    const LevelOfImage& image_level_;
    C values_[kFocalBlock];
    bool dirty_ = false;
    bool has_ignored_ = false;
  };

  // ---- foreground anchors ---------------------------------------------------------------------------------------

  // The normalised box loss of anchor k of a cell; writes its gradient.
  double box_loss(const LevelOfImage& image_level, int64_t cell, int64_t k, int32_t match) const {
    const int64_t y = cell / image_level.level.width;
    const double loss = box_loss_(p_, image_level.l, image_level.image, y, cell - y * image_level.level.width, k, match,
                                  image_level.box_scale * grad_box_);
    return loss * image_level.box_scale;
  }

  const RetinanetLossParams& p_;
  const Gamma& gamma_;
  ForegroundBoxLoss box_loss_;
  int64_t channels_;
  double grad_classification_;
  double grad_box_;
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
