// What detection's kernels on CUDA leave for each other. Rows are images times levels.
#pragma once

#include "kernels/retinanet_detect.h"
#include "kernels/workspace.h"

namespace retinanet_fast {

constexpr int64_t kDetectSpareKeys = 1024;   // candidates beyond topk that may be sorted with them
constexpr int64_t kDetectLeastRoom = 16384;  // candidates of a row that one scan may collect, at least

// What a scan collects of a row. A guess may collect too few, or more than there is room for.
struct DetectBound {
  math::CandidateBound bound;
  bool is_guess;
};

struct DetectCudaWorkspace {
  int64_t room;             // candidates that a row may collect
  int64_t keys_a_row;       // a power of two, as sorting wants it
  int64_t most;             // candidates of a row that are decoded
  int64_t topk;             // candidates of an image that are decoded
  float* lowest;            // [C + 1]: the lowest logit above each class's threshold, and above any; with class_thresh
  DetectBound* bounds;      // [rows]
  uint32_t* found;          // [rows]: collected; may be more than there is room for
  uint64_t* collected;      // [rows, room]: a logit's bits and an index, in no order
  uint32_t* counts;         // [rows]: keys
  uint64_t* keys;           // [rows, keys_a_row]: best first
  uint64_t* merged;         // [B, topk]: best first
  math::Box<float>* boxes;  // [B, topk]
  float* scores;            // [B, topk], only for soft suppression
  int32_t* totals;          // [B]
  size_t bytes;

  RETINANET_FAST_INLINE DetectCudaWorkspace(void* base, const RetinanetDetectParams& p) {
    int64_t largest = 0;
    for (int64_t level = 0; level < p.head.num_levels; ++level)
      largest = math::max2(largest, level_candidates(p, level));
    most = math::min2(p.topk, largest);
    topk = image_topk(p);
    keys_a_row = 1;
    while (keys_a_row < most + kDetectSpareKeys) keys_a_row *= 2;
    room = math::min2(largest, math::max2(kDetectLeastRoom, 4 * keys_a_row));
    const int64_t rows = p.head.batch_size * p.head.num_levels;
    Workspace space(base);
    lowest = space.take<float>(p.class_thresh != nullptr ? p.head.num_classes + 1 : 0);
    bounds = space.take<DetectBound>(rows);
    found = space.take<uint32_t>(rows);
    collected = space.take<uint64_t>(rows * room);
    counts = space.take<uint32_t>(rows);
    keys = space.take<uint64_t>(rows * keys_a_row);
    merged = space.take<uint64_t>(p.head.batch_size * topk);
    boxes = space.take<math::Box<float>>(p.head.batch_size * topk);
    scores = space.take<float>(p.soft_nms != SoftNms::kNone ? p.head.batch_size * topk : 0);
    totals = space.take<int32_t>(p.head.batch_size);
    bytes = space.bytes();
  }
};

}  // namespace retinanet_fast
