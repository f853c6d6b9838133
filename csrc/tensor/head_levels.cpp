#include "tensor/head_levels.h"

#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "tensor/checks.h"

namespace retinanet_fast {
namespace {

constexpr int64_t kMostPixels = int64_t{1} << 24;  // above it, not every integer is a float

at::ScalarType kernel_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

// Checks level `l` against the first one, which sets batch size, channels, dtypes and device.
void check_level(const char* op, int64_t l, at::TensorList cls_logits, at::TensorList bbox_regression) {
  const at::Tensor& logits = cls_logits[l];
  const at::Tensor& deltas = bbox_regression[l];
  const at::Tensor& first = cls_logits[0];
  check_same_device(op, "cls_logits", logits, first);
  check_same_device(op, "bbox_regression", deltas, first);
  check_same_dtype(op, "cls_logits", logits, first);
  check_same_dtype(op, "bbox_regression", deltas, bbox_regression[0]);
  TORCH_CHECK_VALUE(deltas.dim() == 4 && deltas.size(1) % 4 == 0 && deltas.size(1) > 0, op,
                    ": expected bbox_regression[", l, "] [B, K * 4, H, W], got ", deltas.sizes());
  const int64_t anchors_per_cell = deltas.size(1) / 4;
  TORCH_CHECK_VALUE(logits.dim() == 4 && logits.size(0) == deltas.size(0) && logits.size(2) == deltas.size(2) &&
                        logits.size(3) == deltas.size(3) && logits.size(1) % anchors_per_cell == 0 &&
                        logits.size(1) > 0,
                    op, ": expected cls_logits[", l, "] [", deltas.size(0), ", ", anchors_per_cell, " * C, ",
                    deltas.size(2), ", ", deltas.size(3), "] beside its bbox_regression, got ", logits.sizes());
  TORCH_CHECK_VALUE(logits.size(0) == first.size(0) && logits.size(1) == first.size(1) &&
                        deltas.size(1) == bbox_regression[0].size(1),
                    op, ": expected every level to have the batch and channels of the first, [", first.size(0), ", ",
                    first.size(1), ", H, W], got ", logits.sizes(), " at level ", l);
}

// A grid's strides or sizes: integers in [least, kMostPixels].
void check_grid_numbers(const char* op, const char* what, at::IntArrayRef numbers, int64_t least) {
  for (size_t i = 0; i < numbers.size(); ++i) {
    TORCH_CHECK_VALUE(numbers[i] >= least && numbers[i] <= kMostPixels, op, ": expected AnchorGrid ", what, " in [",
                      least, ", ", kMostPixels, "], got ", numbers[i], " at level ", i / 2);
  }
}

at::Tensor counts_of(const char* op, const at::Tensor& counts, bool padded, int64_t batch_size,
                     const at::Tensor& like) {
  TORCH_CHECK_VALUE(padded, op, ": expected gt_counts beside gt_boxes [B, G, 4] alone, got them beside a list");
  TORCH_CHECK_VALUE(counts.dim() == 1 && counts.size(0) == batch_size, op, ": expected gt_counts [", batch_size,
                    "], got ", counts.sizes());
  TORCH_CHECK_TYPE(counts.scalar_type() == at::kLong || counts.scalar_type() == at::kInt, op,
                   ": expected gt_counts of int64 or int32, got ", counts.scalar_type());
  check_same_device(op, "gt_counts", counts, like);
  return counts.to(at::kLong).contiguous();
}

}  // namespace

LevelStrides strides_of(const at::Tensor& level) {
  return {level.stride(0), level.stride(1), level.stride(2), level.stride(3)};
}

HeadLevels head_levels_of(const char* op, at::TensorList cls_logits, at::TensorList bbox_regression) {
  TORCH_CHECK_VALUE(!cls_logits.empty() && cls_logits.size() == bbox_regression.size(), op,
                    ": expected one or more levels of cls_logits and as many of bbox_regression, got ",
                    cls_logits.size(), " and ", bbox_regression.size());
  TORCH_CHECK_VALUE(cls_logits.size() <= kMaxLevels, op, ": expected at most ", kMaxLevels, " levels, got ",
                    cls_logits.size());
  HeadLevels head{};
  head.logits_dtype = dtype_of(op, "cls_logits", cls_logits[0]);
  head.deltas_dtype = dtype_of(op, "bbox_regression", bbox_regression[0]);
  head.num_levels = int64_t(cls_logits.size());
  int64_t anchors = 0;
  for (int64_t l = 0; l < head.num_levels; ++l) {
    check_level(op, l, cls_logits, bbox_regression);
    const at::Tensor& logits = cls_logits[l];
    const at::Tensor& deltas = bbox_regression[l];
    head.batch_size = logits.size(0);
    head.anchors_per_cell = deltas.size(1) / 4;
    head.num_classes = logits.size(1) / head.anchors_per_cell;
    head.levels[l] = {
        .logits = logits.const_data_ptr(),
        .deltas = deltas.const_data_ptr(),
        .logits_strides = strides_of(logits),
        .deltas_strides = strides_of(deltas),
        .first_anchor = anchors,
        .height = logits.size(2),
        .width = logits.size(3),
    };
    anchors += head.anchors_per_cell * logits.size(2) * logits.size(3);
  }
  return head;
}

AnchorsOf anchors_of(const char* op, const at::Tensor& anchors, at::IntArrayRef strides, at::IntArrayRef grid_sizes,
                     const at::Tensor& like) {
  check_same_device(op, "anchors", anchors, like);
  dtype_of(op, "anchors", anchors);
  AnchorsOf result{};
  Anchors& found = result.anchors;
  if (anchors.dim() == 2) {
    check_boxes(op, "anchors", anchors);
    TORCH_CHECK_VALUE(strides.empty() && grid_sizes.empty(), op,
                      ": expected no strides and grid sizes beside anchors [A, 4], got ", strides.size() / 2, " and ",
                      grid_sizes.size() / 2);
    result.memory = anchors.to(kernel_dtype(anchors.scalar_type())).contiguous();
    found.boxes = result.memory.const_data_ptr();
    found.boxes_dtype = dtype_of(op, "anchors", result.memory);
    found.num_anchors = result.memory.size(0);
    return result;
  }
  TORCH_CHECK_VALUE(anchors.dim() == 3 && anchors.size(2) == 4, op,
                    ": expected anchors [A, 4] or an AnchorGrid with base_anchors [L, K, 4], got ", anchors.sizes());
  const int64_t levels = anchors.size(0);
  TORCH_CHECK_VALUE(levels <= kMaxLevels, op, ": expected an AnchorGrid of at most ", kMaxLevels, " levels, got ",
                    levels);
  TORCH_CHECK_VALUE(int64_t(strides.size()) == 2 * levels && int64_t(grid_sizes.size()) == 2 * levels, op,
                    ": expected an AnchorGrid with a stride and a grid size for each of its ", levels, " levels, got ",
                    strides.size() / 2, " and ", grid_sizes.size() / 2);
  check_grid_numbers(op, "strides", strides, 1);
  check_grid_numbers(op, "grid_sizes", grid_sizes, 0);
  result.memory = anchors.to(at::kFloat).contiguous();
  found.base_anchors = result.memory.const_data_ptr<float>();
  found.num_levels = int32_t(levels);
  found.anchors_per_cell = int32_t(anchors.size(1));
  for (int64_t l = 0; l < levels; ++l) {
    found.levels[l] = {
        .first_anchor = found.num_anchors,
        .height = int32_t(grid_sizes[2 * l]),
        .width = int32_t(grid_sizes[2 * l + 1]),
        .stride_y = int32_t(strides[2 * l]),
        .stride_x = int32_t(strides[2 * l + 1]),
    };
    found.num_anchors += anchors.size(1) * grid_sizes[2 * l] * grid_sizes[2 * l + 1];
  }
  return result;
}

void check_anchors_of_head(const char* op, const Anchors& anchors, const HeadLevels& head) {
  int64_t expected = 0;
  for (int64_t l = 0; l < head.num_levels; ++l) {
    const HeadLevel& level = head.levels[l];
    expected += head.anchors_per_cell * level.height * level.width;
    TORCH_CHECK_VALUE(
        anchors.boxes || (anchors.num_levels == head.num_levels && anchors.anchors_per_cell == head.anchors_per_cell &&
                          anchors.levels[l].height == level.height && anchors.levels[l].width == level.width),
        op, ": expected an AnchorGrid of ", head.num_levels, " levels with ", head.anchors_per_cell,
        " anchors per cell and ", level.height, " x ", level.width, " cells at level ", l, ", got ", anchors.num_levels,
        " levels with ", anchors.anchors_per_cell, " and ", anchors.levels[l].height, " x ", anchors.levels[l].width);
  }
  TORCH_CHECK_VALUE(anchors.num_anchors == expected, op, ": expected anchors [", expected,
                    ", 4] for these levels, got [", anchors.num_anchors, ", 4]");
}

at::Tensor concatenate(at::TensorList tensors, at::ScalarType dtype) {
  const at::Tensor& first = tensors[0];
  if (tensors.size() == 1) return first.to(dtype).contiguous();
  if (first.is_cpu()) return at::cat(tensors).to(dtype);
  // On CUDA at::cat takes the host 0.1 ms, longer than the kernels that wait for it.
  std::vector<int64_t> lengths, sizes = first.sizes().vec();
  sizes[0] = 0;
  for (const at::Tensor& tensor : tensors) {
    lengths.push_back(tensor.size(0));
    sizes[0] += tensor.size(0);
  }
  const at::Tensor whole = at::empty(sizes, first.options().dtype(dtype));
  const std::vector<at::Tensor> parts = whole.split_with_sizes(lengths);
  at::_foreach_copy_(parts, tensors);
  return whole;
}

bool is_padded(at::TensorList gt_boxes) { return gt_boxes.size() == 1 && gt_boxes[0].dim() == 3; }

GroundTruth ground_truth_of(const char* op, at::TensorList gt_boxes, const std::optional<at::Tensor>& gt_counts,
                            const at::Tensor& anchors) {
  GroundTruth result;
  result.offsets.push_back(0);
  at::ScalarType dtype = anchors.scalar_type();
  const bool padded = is_padded(gt_boxes);
  for (size_t image = 0; image < gt_boxes.size(); ++image) {
    const at::Tensor& boxes = gt_boxes[image];
    TORCH_CHECK_VALUE((padded || boxes.dim() == 2) && boxes.size(-1) == 4, op, ": expected gt_boxes[", image,
                      "] [G, 4], got ", boxes.sizes());
    TORCH_CHECK_VALUE(boxes.device() == anchors.device(), op, ": expected gt_boxes[", image, "] on ", anchors.device(),
                      ", got ", boxes.device());
    dtype = c10::promoteTypes(dtype, dtype_of(op, "gt_boxes", boxes) == DType::kFloat64 ? at::kDouble : at::kFloat);
    const int64_t images = padded ? boxes.size(0) : 1;
    for (int64_t i = 0; i < images; ++i) result.offsets.push_back(result.offsets.back() + boxes.size(-2));
  }
  if (gt_boxes.empty()) {
    result.boxes = at::empty({0, 4}, anchors.options().dtype(dtype));
  } else {
    result.boxes = concatenate(gt_boxes, dtype).view({-1, 4});
  }
  if (gt_counts.has_value()) result.counts = counts_of(op, *gt_counts, padded, result.batch_size(), anchors);
  return result;
}

}  // namespace retinanet_fast
