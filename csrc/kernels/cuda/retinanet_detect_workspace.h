// What detection's kernels on CUDA leave for each other. A row is one level of one image.
#pragma once

#include "kernels/retinanet_detect.h"
#include "kernels/workspace.h"

namespace retinanet_fast {

constexpr int64_t kDetectSpareKeys = 1024;   // candidates beyond topk that may be sorted with them
constexpr int64_t kDetectLeastRoom = 16384;  // candidates of a row for which there is room at least

// What collect_kernel collects of a row. A guessed bound may let too few pass, or more than there is room for.
struct DetectBound {
  math::CandidateBound bound;
  bool is_guess;
};

struct DetectCudaWorkspace {
  int64_t room;             // collected candidates per row
  int64_t keys_per_row;     // a power of two, as the sort needs
  int64_t most;             // candidates per row that are decoded, at most
  int64_t topk;             // candidates per image that are decoded, at most
  float* lowest;            // [C + 1]: the lowest logit above each class's threshold, and above any; with class_thresh
  DetectBound* bounds;      // [rows]
  uint32_t* found;          // [rows]: candidates that passed; may be more than there is room for
  uint64_t* collected;      // [rows, room]: a logit's bits and an index, in no order
  uint32_t* counts;         // [rows]: of `keys`
  uint64_t* keys;           // [rows, keys_per_row]: best first
  uint64_t* merged;         // [B, topk]: best first
  math::Box<float>* boxes;  // [B, topk]
  float* scores;            // [B, topk], for soft suppression alone
  int32_t* totals;          // [B]: of `merged`
  size_t bytes;

  RETINANET_FAST_INLINE DetectCudaWorkspace(void* base, const RetinanetDetectParams& p) {
    int64_t largest = 0;
    for (int64_t level = 0; level < p.head.num_levels; ++level)
      largest = math::max2(largest, level_candidates(p, level));
    most = math::min2(p.topk_candidates, largest);
    topk = image_topk(p);
    keys_per_row = 1;
    while (keys_per_row < most + kDetectSpareKeys) keys_per_row *= 2;
    room = math::min2(largest, math::max2(kDetectLeastRoom, 4 * keys_per_row));
    const int64_t rows = p.head.batch_size * p.head.num_levels;
    Workspace space(base);
    lowest = space.take<float>(p.class_thresh != nullptr ? p.head.num_classes + 1 : 0);
    bounds = space.take<DetectBound>(rows);
    found = space.take<uint32_t>(rows);
    collected = space.take<uint64_t>(rows * room);
    counts = space.take<uint32_t>(rows);
    keys = space.take<uint64_t>(rows * keys_per_row);
    merged = space.take<uint64_t>(p.head.batch_size * topk);
    boxes = space.take<math::Box<float>>(p.head.batch_size * topk);
    scores = space.take<float>(p.soft_nms != SoftNms::kNone ? p.head.batch_size * topk : 0);
    totals = space.take<int32_t>(p.head.batch_size);
    bytes = space.bytes();
  }
};

}  // namespace retinanet_fast
