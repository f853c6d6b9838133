// The two losses of kernels/retinanet_loss.h and their gradients, in three launches for all levels and images.
//
// focal_kernel (retinanet_loss_focal.cuh): a block lies in one level of one image.
//   channels last: a tile along rows of classes, of kLossRowVectors 16-byte vectors per thread;
//   NCHW: 32 vectors of positions in all planes of one anchor shape, whose labels are read once.
// box_loss_kernel: kBoxAnchors anchors of one image per thread; a warp's few foreground ones are collected, so that its
// lanes take one each, side by side.
// sum_kernel: one block per loss adds up the sums of that loss's blocks.
// Moves the logits in and their gradient out once, the matches twice, and the deltas of foreground anchors with their
// gradient. Deterministic: sums are added per thread, in a fixed tree per block, and over blocks in a fixed order.
#include "kernels/retinanet_loss.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/retinanet_loss_focal.cuh"
#include "kernels/cuda/sum.cuh"
#include "kernels/retinanet_loss_box.h"

namespace retinanet_fast {
inline namespace retinanet_loss_cu {

using namespace math;

// Blocks per multiprocessor: as many as the registers that a kernel, and gamma's policy, need allow without spills.
template <class Gamma>
constexpr int kFocalBlocks = 2;
template <class T>
constexpr int kFocalBlocks<GammaTwo<T>> = sizeof(T) == 8 ? 2 : 3;
template <class T>
constexpr int kBoxBlocks = sizeof(T) == 8 ? 2 : 4;

// The blocks of the levels, one level's after the other's.
struct LossGrid {
  struct Level {
    int64_t first;      // block; larger than any where there is no such level
    int64_t per_image;  // blocks per image
    bool vectors;
  };
  Level levels[kMaxLevels];
  RowStep step;  // from a thread's vector to its next, over rows of classes
};

template <class T, class Gamma>
__global__ void __launch_bounds__(kLossThreads, kFocalBlocks<Gamma>)
    focal_kernel(RetinanetLossParams p, LossGrid grid, Gamma gamma) {
  int l = 0;
  LossGrid::Level blocks = grid.levels[0];
#pragma unroll
  for (int i = 1; i < kMaxLevels; ++i) {  // constant indices: the arguments are not copied to local memory
    if (int64_t(blockIdx.x) >= grid.levels[i].first) {
      l = i;
      blocks = grid.levels[i];
    }
  }
  const uint32_t within = blockIdx.x - uint32_t(blocks.first);
  const uint32_t image = within / uint32_t(blocks.per_image);
  const int64_t block = within - image * uint32_t(blocks.per_image);
  const LevelOfImage<T> level(p, l, image, blocks.vectors);
  const ComputeType<T> sum =
      walks_channel_rows(p, l) ? channel_rows(level, block, grid.step, gamma) : planes(level, block, gamma);
  const double total = block_sum<kLossThreads>(sum);
  if (threadIdx.x == 0) p.partial_sums[blockIdx.x] = total;
}

// The level of an image's anchor.
__device__ int level_of(const RetinanetLossParams& p, uint32_t anchor) {
  int level = 0;
#pragma unroll
  for (int l = 1; l < kMaxLevels; ++l) {  // constant indices: no access waits for another
    if (l < p.head.num_levels && anchor >= uint32_t(p.head.levels[l].first_anchor)) level = l;
  }
  return level;
}

struct Foreground {
  uint32_t anchor;  // in its image, which has less than 2^32: match_anchors refuses more
  int32_t match;
};

template <class T>
__global__ void __launch_bounds__(kLossThreads, kBoxBlocks<T>)
    box_loss_kernel(RetinanetLossParams p, uint32_t blocks_per_image, double* partial_sums) {
  __shared__ Foreground lists[kLossThreads / 32][kBoxAnchors * 32];
  Foreground* list = lists[threadIdx.x / 32];
  const unsigned lane = threadIdx.x % 32;
  const uint32_t image = blockIdx.x / blocks_per_image;
  const int64_t first = (blockIdx.x - image * blocks_per_image) * int64_t(kLossThreads * kBoxAnchors) +
                        (threadIdx.x - lane) * kBoxAnchors + lane;
  int32_t match[kBoxAnchors];
#pragma unroll
  for (int j = 0; j < kBoxAnchors; ++j) {
    const int64_t anchor = first + j * 32;
    match[j] = anchor < p.anchors.num_anchors ? p.matches[image * p.anchors.num_anchors + anchor] : kMatchBackground;
  }
  const double scale = image_scale(p, image);
  const double factor = scale * upstream<ComputeType<T>>(p.grad_box);
  unsigned count = 0;
#pragma unroll
  for (int j = 0; j < kBoxAnchors; ++j) {
    const unsigned votes = __ballot_sync(0xffffffffu, match[j] >= 0);
    if (match[j] >= 0) list[count + __popc(votes & ((1u << lane) - 1))] = {uint32_t(first) + j * 32, match[j]};
    count += __popc(votes);
  }
  __syncwarp();
  double loss = 0;
  for (unsigned i = lane; i < count; i += 32) {
    const Foreground at = list[i];
    const int64_t label = p.gt_labels[at.match];
    const int l = level_of(p, at.anchor);
    const uint32_t within = at.anchor - uint32_t(p.head.levels[l].first_anchor);
    const uint32_t cell = within / uint32_t(p.head.anchors_per_cell);
    const uint32_t k = within - cell * uint32_t(p.head.anchors_per_cell);
    const uint32_t y = cell / uint32_t(p.head.levels[l].width);
    const uint32_t x = cell - y * uint32_t(p.head.levels[l].width);
    loss += foreground_box_loss<T>(p, l, image, y, x, k, at.match, factor) * scale;
    if ((label < 0 || label >= p.head.num_classes) && p.bad_label) *p.bad_label = bad_label_code(at.match, label);
  }
  const double sum = block_sum<kLossThreads>(loss);
  if (threadIdx.x == 0) partial_sums[blockIdx.x] = sum;
}

// Block 0 adds up the focal sums, block 1 the box sums.
template <class C>
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const double* focal_sums, int64_t focal_blocks, const double* box_sums, int64_t box_blocks,
               void* classification, void* box) {
  const bool focal = blockIdx.x == 0;
  const double total = sum_of(focal ? focal_sums : box_sums, focal ? focal_blocks : box_blocks);
  if (threadIdx.x == 0) *static_cast<C*>(focal ? classification : box) = C(total);
}

// Whether logits and their gradient are dense in each image (channels last) or plane (NCHW), and lie at the same
// distance from 16-byte boundaries in all of these.
bool goes_in_vectors(const RetinanetLossParams& p, int l) {
  const HeadLevel& level = p.head.levels[l];
  const HeadGradients& gradients = p.gradients[l];
  const int64_t size = int64_t(16 / size_of(p.head.logits_dtype));
  const bool rows = walks_channel_rows(p, l);
  const int64_t step = rows ? p.head.channels() : 1;  // from a cell to the next
  const auto dense = [&](const LevelStrides& at) {
    return (at.x == step || level.width == 1) && (at.y == step * level.width || level.height == 1);
  };
  if (!dense(level.logits_strides)) return false;
  if (!gradients.logits) return true;
  const auto place = [&](const void* pointer) { return int64_t(reinterpret_cast<uintptr_t>(pointer) % 16); };
  const auto alike = [&](int64_t a, int64_t b) { return (a - b) % size == 0; };
  return dense(gradients.logits_strides) && place(level.logits) == place(gradients.logits) &&
         (p.head.batch_size == 1 || alike(level.logits_strides.image, gradients.logits_strides.image)) &&
         (rows || alike(level.logits_strides.channel, gradients.logits_strides.channel));
}

template <class T, class Gamma>
Status run(const RetinanetLossParams& p, const Gamma& gamma, CudaStream stream) {
  LossGrid grid{.levels = {}, .step = RowStep(p.head.num_classes, kLossThreads * kVector<T>)};
  int64_t focal_blocks = 0;
  for (int l = 0; l < kMaxLevels; ++l) {
    grid.levels[l] = {std::numeric_limits<int64_t>::max(), 1, false};
    if (l >= p.head.num_levels) continue;
    const int64_t per_image = loss_blocks_per_image(p, l);
    grid.levels[l] = {focal_blocks, per_image, goes_in_vectors(p, l)};
    focal_blocks += p.head.batch_size * per_image;
  }
  const int64_t box_blocks_per_image = box_loss_blocks_per_image(p);
  const int64_t box_blocks = p.head.batch_size * box_blocks_per_image;
  double* box_sums = p.partial_sums + focal_blocks;
  Status status =
      launch(focal_kernel<T, Gamma>, blocks_of(focal_blocks), dim3(kLossThreads), 0, stream, p, grid, gamma);
  if (status.ok()) {
    status = dispatch_dtype(p.head.deltas_dtype, [&](auto zero) {
      return launch(box_loss_kernel<decltype(zero)>, blocks_of(box_blocks), dim3(kLossThreads), 0, stream, p,
                    uint32_t(box_blocks_per_image), box_sums);
    });
  }
  if (status.ok()) {
    status = launch(sum_kernel<ComputeType<T>>, dim3(2), dim3(kSumThreads), 0, stream,
                    static_cast<const double*>(p.partial_sums), focal_blocks, static_cast<const double*>(box_sums),
                    box_blocks, p.classification, p.box);
  }
  return status;
}

}  // namespace retinanet_loss_cu

Status retinanet_loss_cuda(const RetinanetLossParams& p, CudaStream stream) {
  return dispatch_dtype(p.head.logits_dtype, [&](auto zero) {
    using T = decltype(zero);
    return dispatch_gamma<ComputeType<T>>(p.gamma, [&](auto gamma) { return run<T>(p, gamma, stream); });
  });
}

}  // namespace retinanet_fast
