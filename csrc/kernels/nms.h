// Greedy non-maximum suppression, of all boxes against each other or class by class.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

// In order of descending score (equal scores in input order, NaN first) a box is kept unless its IoU with a box kept
// before, of its own class if there are classes, is > threshold. A NaN IoU suppresses nothing.
struct NmsParams {
  const void* boxes;       // [N, 4] xyxy
  const void* scores;      // [N], of the boxes' dtype
  const int64_t* classes;  // [N], or null: all are one class
  const int64_t* order;    // [N], the order above; null where the kernel sorts: on the CPU, on CUDA up to kNmsCounted
  void* workspace;         // null: the launcher writes the bytes that it needs to workspace_bytes, and returns
  size_t* workspace_bytes;
  int64_t* kept;   // [N], of which the first `count` are written: indices of the kept boxes, best first
  int64_t* count;  // [1]
  int64_t n;       // < 2^31
  double iou_threshold;
  DType dtype;
};

// On CUDA, boxes are settled in rounds of so many, best first; up to so many scores are ranked by counting.
constexpr int64_t kNmsRound = 4096;
constexpr int64_t kNmsCounted = 2 * kNmsRound;

Status nms_cuda(const NmsParams& params, CudaStream stream);

}  // namespace retinanet_fast
