// focal_kernel: all levels and images in one launch; a block is a piece of one level of one image.
//   NCHW: 32 lanes x 8 warps; a lane holds the labels of a 16-byte vector of positions of one anchor shape, and the
//     warps take turns at the C channels, so that the matches are read once for all of them.
//   channels last: a thread takes 16-byte vectors of (anchor, class) pairs, which are consecutive in memory, two at
//   once. Where vectors are not aligned, the same elements are read one by one. Almost all anchors are background: a
//   vector without any other, or for a channel that is not its foreground's class, needs no look at single labels.
// box_loss_kernel: a thread per anchor and image, of which the few foreground ones have work.
// sum_kernel: a block for each of the two losses adds up their blocks' sums.
// Moves the logits in and their gradient out once, the matches about twice, and the deltas of foreground anchors.
// Sums are added per thread, in a fixed tree per block and in a fixed order over blocks: the same bits on every run.
#include "kernels/retinanet_loss.h"

#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/row_cursor.cuh"
#include "kernels/cuda/sum.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/retinanet_loss_box.h"
#include "math/focal.h"

namespace retinanet_fast {
namespace {

using namespace math;

constexpr int kWarps = kLossThreads / 32;

// Blocks on a multiprocessor: as many as the registers of the exponent's policy allow without spills.
template <class Gamma>
constexpr int kFocalBlocks = 2;
template <class T>
constexpr int kFocalBlocks<GammaTwo<T>> = 3;

// The blocks of the levels, one level's after the other's.
struct LossGrid {
  struct Level {
    int64_t first;      // block; beyond the last level larger than any
    int64_t per_image;  // blocks
    bool aligned;       // vectors lie on 16 bytes
  };
  Level levels[kMaxLevels];
  RowStep step;  // from a thread's vector to its next, over rows of classes
};

// An image's normalisation.
__device__ double image_scale(const RetinanetLossParams& p, int64_t image) {
  const int32_t foreground = p.num_foreground[image];
  return 1.0 / (double(foreground > 1 ? foreground : 1) * double(p.head.batch_size));
}

// What all elements of a block share.
template <class T, class Gamma>
struct Piece {
  using C = ComputeType<T>;
  static constexpr int kSize = kVector<T>;
  Gamma gamma;
  FocalWeights<C> weights;  // with the image's normalisation, and the incoming gradient: then the loss is not used

  __device__ Piece(const RetinanetLossParams& p, const Gamma& gamma_policy, int64_t image)
      : gamma(gamma_policy), weights(focal_weights<C>(p.alpha, image_scale(p, image) * upstream(p))) {}

  static __device__ double upstream(const RetinanetLossParams& p) {
    return p.grad_classification ? double(*static_cast<const C*>(p.grad_classification)) : 1.0;
  }

  // The losses of background logits, added up, and their gradients.
  __device__ __forceinline__ C background(const C (&x)[kSize], C (&grad)[kSize]) const {
    C sum = 0;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      const FocalTerm<C> term = focal_background(x[j], gamma, weights.background);
      sum += term.loss;
      grad[j] = term.grad;
    }
    return sum;
  }

  // The loss of one logit; `grad` gets its gradient. An ignored one may be anything, NaN included.
  __device__ __forceinline__ C element(C logit, bool ignored, bool foreground, C& grad) const {
    const C x = ignored ? C(0) : logit;
    const C weight = ignored ? C(0) : foreground ? weights.foreground : weights.background;
    const FocalTerm<C> term = focal_background(foreground ? -x : x, gamma, weight);
    grad = foreground ? -term.grad : term.grad;
    return term.loss;
  }
};

__device__ int32_t label_of(const RetinanetLossParams& p, int32_t match) {
  return match >= 0 ? int32_t(p.gt_labels[match]) : match;
}

template <class T, class Gamma>
__device__ double planes(const RetinanetLossParams& p, const HeadLevel& level, const HeadGradients& gradients,
                         const Piece<T, Gamma>& piece, int64_t image, int64_t block, bool aligned) {
  using C = ComputeType<T>;
  constexpr int kSize = kVector<T>;
  const int64_t cells = level.height * level.width;
  const int64_t pieces = ceil_div(cells, 32 * kSize);
  const int64_t k = block / pieces;
  const int64_t first = (block - k * pieces) * 32 * kSize;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const auto position = [&](int j) { return first + (aligned ? lane * kSize + j : lane + 32 * j); };

  const int32_t* matches = p.matches + image * p.anchors.num_anchors + level.first_anchor + k;
  int32_t label[kSize];
  bool all_background = true;
  bool any_ignored = false;
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    const int64_t cell = position(j);
    label[j] = cell < cells ? label_of(p, matches[cell * p.head.anchors_per_cell]) : kMatchIgnored;
    all_background = all_background && label[j] == kMatchBackground;
    any_ignored = any_ignored || label[j] == kMatchIgnored;
  }
  const auto is_background = [&](int32_t c) {
    bool background = !any_ignored;
#pragma unroll
    for (int j = 0; j < kSize; ++j) background = background && label[j] != c;
    return background;
  };

  const T* logits = static_cast<const T*>(level.logits) + image * level.logits_strides.image;
  T* grads = static_cast<T*>(gradients.logits);
  if (grads) grads += image * gradients.logits_strides.image;
  const int32_t classes = int32_t(p.head.num_classes);
  double total = 0;
  if (aligned) {  // then the number of cells is a multiple of kSize
    if (position(0) >= cells) return 0;
    const int64_t channel = k * classes + warp;
    const T* from = logits + channel * level.logits_strides.channel + position(0);
    T* to = grads ? grads + channel * gradients.logits_strides.channel + position(0) : nullptr;
    uint4 next{};
    if (warp < classes) next = read_vector(from, 0, kSize, true);
    for (int32_t c = warp; c < classes; c += kWarps) {
      C x[kSize], grad[kSize];
      widen<T>(next, x);
      from += kWarps * level.logits_strides.channel;
      if (c + kWarps < classes) next = read_vector(from, 0, kSize, true);  // under way during what follows
      C sum = 0;
      if (all_background || is_background(c)) {
        sum = piece.background(x, grad);
      } else {
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          sum += piece.element(x[j], label[j] == kMatchIgnored, label[j] == c, grad[j]);
        }
      }
      total += double(sum);
      if (!to) continue;
      store_vector(to, 0, kSize, true, grad);
      to += kWarps * gradients.logits_strides.channel;
    }
    return total;
  }
  for (int32_t c = warp; c < classes; c += kWarps) {
    const int64_t channel = k * classes + c;
    const T* from = logits + channel * level.logits_strides.channel;
    T* to = grads ? grads + channel * gradients.logits_strides.channel : nullptr;
    C sum = 0;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      const int64_t cell = position(j);
      if (cell >= cells) continue;
      const int64_t y = cell / level.width;
      const int64_t x = cell - y * level.width;
      C grad;
      sum += piece.element(load(from[y * level.logits_strides.y + x * level.logits_strides.x]),
                           label[j] == kMatchIgnored, label[j] == c, grad);
      if (to) store(to[y * gradients.logits_strides.y + x * gradients.logits_strides.x], grad);
    }
    total += double(sum);
  }
  return total;
}

template <class T, class Gamma>
__device__ double channel_rows(const RetinanetLossParams& p, const HeadLevel& level, const HeadGradients& gradients,
                               const Piece<T, Gamma>& piece, int64_t image, int64_t block, const RowStep& step,
                               bool aligned) {
  using C = ComputeType<T>;
  constexpr int kSize = kVector<T>;
  constexpr int kStride = kLossThreads * kSize;
  constexpr int kInFlight = 2;
  constexpr int64_t kTile = kLossRowVectors * kStride;
  static_assert(kLossRowVectors % kInFlight == 0);
  const int64_t channels = p.head.anchors_per_cell * p.head.num_classes;
  const int64_t elements = level.height * level.width * channels;
  const T* logits = static_cast<const T*>(level.logits) + image * level.logits_strides.image;
  T* grads = static_cast<T*>(gradients.logits);
  if (grads) grads += image * gradients.logits_strides.image;
  const int32_t* matches = p.matches + image * p.anchors.num_anchors + level.first_anchor;
  const auto offset = [&](const LevelStrides& at, int64_t element) {
    const int64_t cell = element / channels;
    const int64_t y = cell / level.width;
    return y * at.y + (cell - y * level.width) * at.x + (element - cell * channels);
  };

  // Rows are anchors here, and their elements classes; elements are counted from the block's first one.
  const int64_t tile = block * kTile;
  const int32_t count = int32_t(min2(elements - tile, kTile));
  const int32_t thread = int32_t(threadIdx.x) * kSize;
  RowCursor cursor(tile + thread, p.head.num_classes);
  matches += cursor.first;
  double total = 0;
  // Vectors i, i + kStride, ... of the tile, kVectors in all: whole and on 16 bytes, or else element by element.
  const auto take = [&](auto vectors, auto is_whole, int32_t i) {
    constexpr int kVectors = decltype(vectors)::value;
    constexpr bool kWhole = decltype(is_whole)::value;
    uint4 here[kVectors];
    RowCursor cursors[kVectors] = {};
    bool background[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int32_t begin = i + v * kStride;
      if constexpr (kWhole) {
        here[v] = read_vector(logits + tile, begin, begin + kSize, true);
      } else {
        VectorOf<T> vector{};
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          if (begin + j < count) vector.values[j] = logits[offset(level.logits_strides, tile + begin + j)];
        }
        here[v] = bit_cast<uint4>(vector);
      }
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v, cursor.advance(step)) {
      const int32_t* match = matches + cursor.row;
      background[v] = (kWhole || i + kSize <= count) && *match == kMatchBackground;
      if (background[v] && cursor.left < kSize) {
        background[v] = step.length >= kSize && match[1] == kMatchBackground;
      }
      cursors[v] = cursor;
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int32_t begin = i + v * kStride;
      C x[kSize], grad[kSize];
      widen<T>(here[v], x);
      C sum = 0;
      if (background[v]) {
        sum = piece.background(x, grad);
      } else {
        const int32_t* match = matches + cursors[v].row;
        int32_t c = int32_t(p.head.num_classes) - cursors[v].left;
        int32_t label = label_of(p, *match);
#pragma unroll
        for (int j = 0; j < kSize; ++j, ++c) {
          const bool inside = kWhole || begin + j < count;
          if (c == p.head.num_classes) {
            c = 0;
            label = inside ? label_of(p, *++match) : kMatchIgnored;
          }
          sum += piece.element(x[j], label == kMatchIgnored || !inside, label == c, grad[j]);
        }
      }
      total += double(sum);
      if (!grads) continue;
      if constexpr (kWhole) {
        store_vector(grads + tile, begin, begin + kSize, true, grad);
      } else {
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
          if (begin + j < count) store(grads[offset(gradients.logits_strides, tile + begin + j)], grad[j]);
        }
      }
    }
  };
  if (aligned && count == kTile) {
#pragma unroll 1
    for (int32_t i = thread; i < kTile; i += kInFlight * kStride) {
      take(std::integral_constant<int, kInFlight>{}, std::true_type{}, i);
    }
  } else {
#pragma unroll 1
    for (int32_t i = thread; i < count; i += kStride) take(std::integral_constant<int, 1>{}, std::false_type{}, i);
  }
  return total;
}

template <class T, class Gamma>
__global__ void __launch_bounds__(kLossThreads, kFocalBlocks<Gamma>)
    focal_kernel(RetinanetLossParams p, LossGrid grid, Gamma gamma) {
  int l = 0;
  LossGrid::Level blocks = grid.levels[0];
#pragma unroll
  for (int i = 1; i < kMaxLevels; ++i) {  // constant indices: arguments stay where they are
    if (int64_t(blockIdx.x) >= grid.levels[i].first) {
      l = i;
      blocks = grid.levels[i];
    }
  }
  const HeadLevel& level = p.head.levels[l];
  const int64_t image = (blockIdx.x - blocks.first) / blocks.per_image;
  const int64_t block = blockIdx.x - blocks.first - image * blocks.per_image;
  const Piece<T, Gamma> piece(p, gamma, image);
  const double sum = block_sum<kLossThreads>(
      walks_channel_rows(p, l) ? channel_rows(p, level, p.gradients[l], piece, image, block, grid.step, blocks.aligned)
                               : planes(p, level, p.gradients[l], piece, image, block, blocks.aligned));
  if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(kLossThreads) box_loss_kernel(RetinanetLossParams p, double* partial_sums) {
  const int64_t image = blockIdx.y;
  const int64_t anchor = int64_t(blockIdx.x) * kLossThreads + threadIdx.x;
  const int32_t match =
      anchor < p.anchors.num_anchors ? p.matches[image * p.anchors.num_anchors + anchor] : kMatchBackground;
  double loss = 0;
  if (match >= 0) {
    int l = 0;
    while (l + 1 < p.head.num_levels && anchor >= p.head.levels[l + 1].first_anchor) ++l;
    const HeadLevel& level = p.head.levels[l];
    const int64_t cell = (anchor - level.first_anchor) / p.head.anchors_per_cell;
    const int64_t k = anchor - level.first_anchor - cell * p.head.anchors_per_cell;
    const double scale = image_scale(p, image);
    const double upstream = p.grad_bbox ? double(*static_cast<const ComputeType<T>*>(p.grad_bbox)) : 1.0;
    loss = foreground_box_loss<T>(p, l, image, cell, k, match, scale * upstream) * scale;
    const int64_t label = p.gt_labels[match];
    if ((label < 0 || label >= p.head.num_classes) && p.bad_label) *p.bad_label = bad_label_code(match, label);
  }
  const double sum = block_sum<kLossThreads>(loss);
  if (threadIdx.x == 0) partial_sums[image * gridDim.x + blockIdx.x] = sum;
}

// Block 0 adds up the focal sums, block 1 the box sums.
template <class C>
__global__ void __launch_bounds__(kLossThreads)
    sum_kernel(const double* focal_sums, int64_t focal_blocks, const double* box_sums, int64_t box_blocks,
               void* classification, void* bbox) {
  const bool focal = blockIdx.x == 0;
  const double* sums = focal ? focal_sums : box_sums;
  const int64_t n = focal ? focal_blocks : box_blocks;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kLossThreads) sum += sums[i];
  const double total = block_sum<kLossThreads>(sum);
  if (threadIdx.x == 0) *static_cast<C*>(focal ? classification : bbox) = C(total);
}

// Whether every vector that a thread takes lies on 16 bytes and ends with its plane (NCHW), or image (channels last).
bool vectors_are_aligned(const RetinanetLossParams& p, int l) {
  const int64_t size = int64_t(16 / size_of(p.head.logits_dtype));
  const int64_t channels = p.head.channels();
  const HeadLevel& level = p.head.levels[l];
  const HeadGradients& gradients = p.gradients[l];
  const bool rows = walks_channel_rows(p, l);
  const auto aligned = [&](const void* pointer, const LevelStrides& at) {
    if (!pointer) return true;
    const int64_t step = rows ? channels : 1;  // from a cell to the next
    const bool dense = (at.x == step || level.width == 1) && (at.y == step * level.width || level.height == 1);
    const bool planes_end = rows || (at.channel % size == 0 && level.height * level.width % size == 0);
    return dense && planes_end && at.image % size == 0 && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  return aligned(level.logits, level.logits_strides) && aligned(gradients.logits, gradients.logits_strides);
}

template <class T, class Gamma>
Status run(const RetinanetLossParams& p, const Gamma& gamma, CudaStream stream) {
  LossGrid grid{.levels = {}, .step = RowStep(p.head.num_classes, kLossThreads * kVector<T>)};
  int64_t focal_blocks = 0;
  for (int l = 0; l < kMaxLevels; ++l) {
    grid.levels[l] = {std::numeric_limits<int64_t>::max(), 1, false};
    if (l >= p.head.num_levels) continue;
    const int64_t per_image = loss_blocks_per_image(p, l);
    grid.levels[l] = {focal_blocks, per_image, vectors_are_aligned(p, l)};
    focal_blocks += p.head.batch_size * per_image;
  }
  const int64_t box_blocks = box_loss_blocks_per_image(p);
  double* box_sums = p.partial_sums + focal_blocks;
  const dim3 threads(kLossThreads);
  Status status = launch(focal_kernel<T, Gamma>, dim3(unsigned(focal_blocks)), threads, 0, stream, p, grid, gamma);
  if (status.ok()) {
    const dim3 blocks(unsigned(box_blocks), unsigned(p.head.batch_size));
    status = launch(box_loss_kernel<T>, blocks, threads, 0, stream, p, box_sums);
  }
  if (status.ok()) {
    status = launch(sum_kernel<ComputeType<T>>, dim3(2), threads, 0, stream, static_cast<const double*>(p.partial_sums),
                    focal_blocks, static_cast<const double*>(box_sums), box_blocks * p.head.batch_size,
                    p.classification, p.bbox);
  }
  return status;
}

}  // namespace

Status retinanet_loss_cuda(const RetinanetLossParams& p, CudaStream stream) {
  return dispatch_dtype(p.head.logits_dtype, [&](auto zero) {
    using T = decltype(zero);
    return dispatch_gamma<ComputeType<T>>(p.gamma, [&](auto gamma) { return run<T>(p, gamma, stream); });
  });
}

}  // namespace retinanet_fast
