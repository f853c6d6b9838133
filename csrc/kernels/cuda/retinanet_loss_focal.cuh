// The classification loss of one block's share of a level of one image: rows of channels, or planes.
//
// Vectors begin at memory's 16-byte boundaries, wherever the image or plane begins; only the elements before the first
// and after the last whole vector are read one at a time. So are all elements of a level that is not dense, or whose
// gradient lies at another distance from these boundaries.
#pragma once

#include "kernels/cuda/row_cursor.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/retinanet_loss.h"
#include "math/focal.h"

namespace retinanet_fast {

// An image's normalisation.
__device__ inline double image_scale(const RetinanetLossParams& p, int64_t image) {
  const int32_t foreground = p.num_foreground[image];
  return 1.0 / (double(foreground > 1 ? foreground : 1) * double(p.head.batch_size));
}

// The incoming gradient of a loss; 1 where there is none.
template <class C>
__device__ double upstream(const void* grad) {
  return grad ? double(*static_cast<const C*>(grad)) : 1.0;
}

// A level of one image, as a block of the focal kernel sees it.
template <class T>
struct LevelOfImage {
  using C = math::ComputeType<T>;
  const RetinanetLossParams& p;
  int64_t image;
  const T* logits;
  T* grads;  // or null
  LevelStrides logits_strides;
  LevelStrides grads_strides;
  const int32_t* matches;  // of its first anchor
  int64_t cells, width;
  int64_t anchors_per_cell, num_classes;
  bool vectors;  // dense, logits and gradient at the same distance from 16-byte boundaries

  __device__ LevelOfImage(const RetinanetLossParams& params, int l, int64_t image_index, bool in_vectors)
      : p(params),
        image(image_index),
        logits(static_cast<const T*>(p.head.levels[l].logits) + image * p.head.levels[l].logits_strides.image),
        grads(static_cast<T*>(p.gradients[l].logits)),
        logits_strides(p.head.levels[l].logits_strides),
        grads_strides(p.gradients[l].logits_strides),
        matches(p.matches + image * p.anchors.num_anchors + p.head.levels[l].first_anchor),
        cells(p.head.levels[l].height * p.head.levels[l].width),
        width(p.head.levels[l].width),
        anchors_per_cell(p.head.anchors_per_cell),
        num_classes(p.head.num_classes),
        vectors(in_vectors) {
    if (grads) grads += image * grads_strides.image;
  }

  // An anchor's class, or kMatchBackground or kMatchIgnored.
  __device__ int32_t label_of(int64_t anchor) const {
    const int32_t match = matches[anchor];
    return match >= 0 ? int32_t(p.gt_labels[match]) : match;
  }

  // With the image's normalisation and the incoming gradient (where there is one, nobody asks for the loss).
  __device__ math::FocalWeights<C> weights() const {
    return math::focal_weights<C>(p.alpha, image_scale(p, image) * upstream<C>(p.grad_classification));
  }
};

// The losses of vectors and single elements, and their gradients.
template <class T, class Gamma>
struct FocalElements {
  using C = math::ComputeType<T>;
  static constexpr int kSize = kVector<T>;
  Gamma gamma;
  math::FocalWeights<C> weights;

  __device__ __forceinline__ C background(const C (&x)[kSize], C (&grad)[kSize]) const {
    C sum = 0;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      const math::FocalTerm<C> term = math::focal_background<T>(x[j], gamma, weights.background);
      sum += term.loss;
      grad[j] = term.grad;
    }
    return sum;
  }

  // Class c of an anchor with this label. The logit of an ignored anchor may be anything, NaN included.
  __device__ __forceinline__ C element(C logit, int32_t label, int32_t c, C& grad) const {
    const bool ignored = label == kMatchIgnored;
    const bool foreground = label == c;
    const C x = ignored ? C(0) : logit;
    const C weight = ignored ? C(0) : foreground ? weights.foreground : weights.background;
    const math::FocalTerm<C> term = math::focal_background<T>(foreground ? -x : x, gamma, weight);
    grad = foreground ? -term.grad : term.grad;
    return term.loss;
  }
};

// ---- channels last: one row of classes per anchor, one after the other ------------------------------------------

// `count` elements of the level from `begin` on, whatever its strides: one by one.
template <class T, class Elements>
__device__ math::ComputeType<T> row_elements(const LevelOfImage<T>& level, const Elements& elements, int64_t begin,
                                             int count) {
  using C = math::ComputeType<T>;
  int64_t anchor = begin / level.num_classes;
  int32_t c = int32_t(begin - anchor * level.num_classes);
  int64_t cell = anchor / level.anchors_per_cell;
  int64_t channel = begin - cell * level.anchors_per_cell * level.num_classes;
  C sum = 0;
  for (int32_t label = level.label_of(anchor); count > 0;) {
    const int64_t y = cell / level.width;
    const int64_t x = cell - y * level.width;
    const T* from = level.logits + y * level.logits_strides.y + x * level.logits_strides.x;
    T* to = level.grads ? level.grads + y * level.grads_strides.y + x * level.grads_strides.x : nullptr;
    for (; count > 0 && channel < level.anchors_per_cell * level.num_classes; --count, ++channel, ++c) {
      if (c == level.num_classes) {
        c = 0;
        label = level.label_of(++anchor);
      }
      C grad;
      sum += elements.element(math::load(from[channel]), label, c, grad);
      if (to) math::store(to[channel], grad);
    }
    ++cell;
    channel = 0;
  }
  return sum;
}

// A tile of 16-byte vectors of (anchor, class) pairs; each thread has two loads under way while it computes two
// vectors. Almost all tiles are background alone, and look at their labels once, before the loop; in the others a
// vector that is background alone does not look at the labels of single elements.
template <class T, class Gamma>
__device__ math::ComputeType<T> channel_rows(const LevelOfImage<T>& level, int64_t block, const RowStep& step,
                                             const Gamma& gamma) {
  using C = math::ComputeType<T>;
  constexpr int kSize = kVector<T>;
  constexpr int kStride = kLossThreads * kSize;
  constexpr int kInFlight = 2;
  constexpr int32_t kTile = kLossRowVectors * kStride;
  static_assert(kLossRowVectors % kInFlight == 0);

  // The tile's elements are [begin, end), counted from `tile`, where the first vector begins.
  const int64_t tile = block * kTile - (level.vectors ? past_boundary(level.logits) : 0);
  const int32_t begin = tile < 0 ? int32_t(-tile) : 0;
  const int32_t end =
      int32_t(math::min2(level.cells * level.anchors_per_cell * level.num_classes - tile, int64_t(kTile)));
  const bool whole = level.vectors && begin == 0 && end == kTile;
  const T* logits = level.logits + tile;
  T* grads = level.grads ? level.grads + tile : nullptr;
  const int32_t thread = int32_t(threadIdx.x) * kSize;
  uint4 next[kInFlight] = {};
  if (whole) {
#pragma unroll
    for (int v = 0; v < kInFlight; ++v) next[v] = read_whole(logits + thread + v * kStride);
  }

  __shared__ __align__(16) math::FocalWeights<C> weights;
  if (threadIdx.x == 0) weights = level.weights();
  const int64_t first_anchor = (tile + begin) / level.num_classes;
  const int32_t ahead = int32_t(tile + begin - first_anchor * level.num_classes);  // of its elements, before the tile
  const int32_t anchors = end > begin ? int32_t((ahead + end - begin - 1) / level.num_classes) + 1 : 0;
  bool others = false;
  for (int32_t i = threadIdx.x; i < anchors; i += kLossThreads) {
    others |= level.matches[first_anchor + i] != kMatchBackground;
  }
  const bool background = !__syncthreads_or(others);
  const FocalElements<T, Gamma> elements{gamma, {weights.background, weights.foreground}};

  C total = 0;
  if (!whole) {
    for (int32_t i = thread; i < end; i += kStride) {
      const int32_t from = math::max2(i, begin);
      const int32_t to = math::min2(i + kSize, end);
      if (level.vectors && background && to - from == kSize) {
        C x[kSize], grad[kSize];
        widen<T>(read_whole(logits + i), x);
        total += elements.background(x, grad);
        if (grads) store_whole(grads + i, grad);
      } else if (to > from) {
        total += row_elements(level, elements, tile + from, to - from);
      }
    }
    return total;
  }

  const auto go_over = [&](auto&& take) {
#pragma unroll 1
    for (int n = 0; n < kLossRowVectors; n += kInFlight, logits += kInFlight * kStride) {
      uint4 here[kInFlight];
#pragma unroll
      for (int v = 0; v < kInFlight; ++v) {
        here[v] = next[v];
        if (n + kInFlight < kLossRowVectors) next[v] = read_whole(logits + thread + (kInFlight + v) * kStride);
      }
#pragma unroll
      for (int v = 0; v < kInFlight; ++v) {
        C x[kSize], grad[kSize];
        widen<T>(here[v], x);
        total += take(x, grad);
        if (grads) store_whole(grads + thread + v * kStride, grad);
      }
      if (grads) grads += kInFlight * kStride;
    }
  };
  if (background) {
    go_over([&](const C(&x)[kSize], C(&grad)[kSize]) { return elements.background(x, grad); });
    return total;
  }
  RowCursor cursor(ahead + thread, level.num_classes);
  const int64_t anchor = first_anchor + cursor.first;
  go_over([&](const C(&x)[kSize], C(&grad)[kSize]) {
    int64_t row = anchor + cursor.row;
    int32_t c = int32_t(level.num_classes) - cursor.left;
    int32_t label = level.matches[row];
    const bool plain = label == kMatchBackground &&
                       (cursor.left >= kSize || (step.length >= kSize && level.matches[row + 1] == kMatchBackground));
    cursor.advance(step);
    if (plain) return elements.background(x, grad);
    if (label >= 0) label = level.label_of(row);
    C sum = 0;
#pragma unroll
    for (int j = 0; j < kSize; ++j, ++c) {
      if (c == level.num_classes) {
        c = 0;
        label = level.label_of(++row);
      }
      sum += elements.element(x[j], label, c, grad[j]);
    }
    return sum;
  });
  return total;
}

// ---- NCHW: one plane of cells per channel -----------------------------------------------------------------------

// 32 vectors of positions in the planes of one anchor shape, with the labels in shared memory. Warps take classes in
// turn, one lane per vector, each with the load from its next plane under way. Planes begin at any element, so the
// position at which a vector begins differs from plane to plane.
template <class T, class Gamma>
__device__ math::ComputeType<T> planes(const LevelOfImage<T>& level, int64_t block, const Gamma& gamma) {
  using C = math::ComputeType<T>;
  constexpr int kSize = kVector<T>;
  constexpr int kPositions = 32 * kSize;
  constexpr int kLabels = kPositions + kSize - 1;  // where the planes lie differently, up to kSize - 1 positions before
  constexpr int kWarps = kLossThreads / 32;
  __shared__ int32_t labels[kLabels];
  __shared__ __align__(16) math::FocalWeights<C> weights;
  __shared__ uint32_t others[kLabels / 32 + 2];  // one bit per label: it is not background
  const int64_t blocks_per_anchor = ceil_div(level.cells + kSize - 1, kPositions);
  const int64_t k = block / blocks_per_anchor;
  const int32_t block_begin = int32_t(block - k * blocks_per_anchor) * kPositions;
  const int32_t first = block_begin - (kSize - 1);  // position of labels[0]
  const int32_t cells = int32_t(level.cells);
  const int32_t classes = int32_t(level.num_classes);
  const int lane = threadIdx.x % 32;

  // A lane's vector of one plane: where it begins, whether it lies in the plane whole, and if so its bits.
  struct PlaneVector {
    int32_t position;
    bool whole;
    uint4 bits;
  };
  const auto read = [&](int32_t c) {
    const T* plane = level.logits + (k * classes + c) * level.logits_strides.channel;
    const int32_t position = block_begin + lane * kSize - (level.vectors ? past_boundary(plane) : 0);
    const bool whole = level.vectors && position >= 0 && position + kSize <= cells;
    return PlaneVector{position, whole, whole ? read_whole(plane + position) : uint4{}};
  };
  PlaneVector next{};
  int32_t c = threadIdx.x / 32;
  if (c < classes) next = read(c);

  if (threadIdx.x == 0) weights = level.weights();
  bool any = false;
  for (int i = threadIdx.x; i - lane < kLabels; i += kLossThreads) {  // by whole warps
    const int32_t cell = first + i;
    const bool inside = i < kLabels && cell >= 0 && cell < cells;
    const int32_t label = inside ? level.label_of(cell * level.anchors_per_cell + k) : kMatchBackground;
    if (i < kLabels) labels[i] = label;
    const uint32_t bits = __ballot_sync(0xffffffffu, label != kMatchBackground);
    if (lane == 0) others[i / 32] = bits;
    any |= bits != 0;
  }
  if (threadIdx.x == 0) others[kLabels / 32 + 1] = 0;
  const bool background = !__syncthreads_or(any);
  const FocalElements<T, Gamma> elements{gamma, {weights.background, weights.foreground}};

  C total = 0;
  for (; c < classes; c += kWarps) {
    const PlaneVector here = next;
    if (c + kWarps < classes) next = read(c + kWarps);
    const int64_t channel = k * classes + c;
    T* to = level.grads ? level.grads + channel * level.grads_strides.channel : nullptr;
    if (here.whole) {
      const int32_t at = here.position - first;
      C x[kSize], grad[kSize];
      widen<T>(here.bits, x);
      if (background || (__funnelshift_r(others[at / 32], others[at / 32 + 1], at % 32) & ((1u << kSize) - 1)) == 0) {
        total += elements.background(x, grad);
      } else {
#pragma unroll
        for (int j = 0; j < kSize; ++j) total += elements.element(x[j], labels[at + j], c, grad[j]);
      }
      if (to) store_whole(to + here.position, grad);
      continue;
    }
    const T* from = level.logits + channel * level.logits_strides.channel;
    for (int j = 0; j < kSize; ++j) {
      const int32_t cell =
          level.vectors ? here.position + j : block_begin + lane + 32 * j;  // so that a warp reads neighbours
      if (cell < 0 || cell >= cells) continue;
      const int32_t y = cell / int32_t(level.width);
      const int32_t x = cell - y * int32_t(level.width);
      C grad;
      total += elements.element(math::load(from[y * level.logits_strides.y + x * level.logits_strides.x]),
                                labels[cell - first], c, grad);
      if (to) math::store(to[y * level.grads_strides.y + x * level.grads_strides.x], grad);
    }
  }
  return total;
}

}  // namespace retinanet_fast
