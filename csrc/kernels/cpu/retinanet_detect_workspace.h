// How the CPU scans a level, and the workspace of detection.
#pragma once

#include "kernels/cpu/nms_workspace.h"
#include "kernels/retinanet_detect.h"

namespace retinanet_fast {

// A level's logits as runs of elements at one stride in memory and in index, along channels or along positions,
// whichever are neighbours in memory.
struct DetectRuns {
  bool over_channels;
  int64_t runs;
  int64_t length;
  int64_t stride;
  uint32_t index_step;
  int64_t rows;  // runs per channel; over channels, runs per row of the grid
  int64_t runs_per_chunk;
  int64_t chunks;
  int64_t capacity;  // candidates that a chunk may hold while it is scanned
};

constexpr int64_t kDetectChunk = 1 << 18;     // logits per chunk, about
constexpr int64_t kDetectSlack = 4096;        // candidates beyond topk that a chunk collects before it drops the worst
constexpr int64_t kDetectBlock = 128;         // logits that are compared with the bound at once
constexpr int64_t kDetectPart = 16;           // logits that are compared at once in a block of which one passes
constexpr int64_t kDetectSampleParts = 1024;  // of kDetectPart logits each

// Scores are counted by the leading bits of their keys: the exponent and four bits of the mantissa, downward from 1.
constexpr int kDetectBoundShift = 51;
constexpr uint64_t kDetectFirstBin = uint64_t(~0x3f800000u) << 32 >> kDetectBoundShift;
constexpr uint64_t kDetectBoundBins = (uint64_t(1) << (64 - kDetectBoundShift)) - kDetectFirstBin;

RETINANET_FAST_INLINE DetectRuns detect_runs(const RetinanetDetectParams& p, int64_t index) {
  const HeadLevel& level = p.head.levels[index];
  const int64_t channels = p.head.channels();
  const LevelStrides& strides = level.logits_strides;
  DetectRuns r;
  r.over_channels = has_channel_rows(p.head, index, strides);
  if (r.over_channels) {
    const bool row_at_once = strides.x == channels;
    r.rows = row_at_once ? 1 : level.width;
    r.runs = level.height * r.rows;
    r.length = channels * (row_at_once ? level.width : 1);
    r.stride = 1;
    r.index_step = 1;
  } else {
    const bool plane_at_once = strides.y == level.width * strides.x;
    r.rows = plane_at_once ? 1 : level.height;
    r.runs = channels * r.rows;
    r.length = level.width * (plane_at_once ? level.height : 1);
    r.stride = strides.x;
    r.index_step = uint32_t(channels);
  }
  r.runs_per_chunk = math::max2(int64_t(1), kDetectChunk / math::max2(int64_t(1), r.length));
  r.chunks = ceil_div(r.runs, r.runs_per_chunk);
  const int64_t most = r.length * r.runs_per_chunk;
  r.capacity = math::min2(p.topk_candidates, most) + math::min2(kDetectSlack, most) + kDetectBlock;
  return r;
}

struct DetectCpuWorkspace {
  DetectRuns runs[kMaxLevels];
  int64_t chunks = 0;    // per image
  int64_t capacity = 0;  // candidates that an image's chunks may hold together
  int64_t topk;          // candidates per image that are decoded
  int64_t blocks_per_image;
  uint64_t* guesses;             // [B, L]: a key that, by a sample, more than topk candidates should be better than
  uint64_t* bounds;              // [B, L]: a key at least as bad as that of the topk-th best candidate found so far
  uint32_t* histograms;          // [B, L, kDetectBoundBins]: candidates of finished scans
  int64_t* counts;               // [B, chunks]: candidates of each chunk
  uint64_t* candidates;          // [B, capacity]
  SortItem<uint64_t>* items[2];  // [B, topk]
  KeptChain* chains;             // [B, C]
  KeptBlock<float>* blocks;      // [B, blocks_per_image]
  int32_t* next_block;
  math::Box<float>* boxes;  // [B, topk], like the two below for soft suppression alone
  float* scores;
  int64_t* labels;
  size_t bytes;

  RETINANET_FAST_INLINE DetectCpuWorkspace(void* base, const RetinanetDetectParams& p) {
    for (int64_t level = 0; level < p.head.num_levels; ++level) {
      runs[level] = detect_runs(p, level);
      chunks += runs[level].chunks;
      capacity += runs[level].chunks * runs[level].capacity;
    }
    topk = image_topk(p);
    blocks_per_image = math::min2(p.detections_per_img, topk);
    const bool soft = p.soft_nms != SoftNms::kNone;
    Workspace space(base);
    guesses = space.take<uint64_t>(p.head.batch_size * p.head.num_levels);
    bounds = space.take<uint64_t>(p.head.batch_size * p.head.num_levels);
    histograms = space.take<uint32_t>(p.head.batch_size * p.head.num_levels * int64_t(kDetectBoundBins));
    counts = space.take<int64_t>(p.head.batch_size * chunks);
    candidates = space.take<uint64_t>(p.head.batch_size * capacity);
    for (auto& sorted : items) sorted = space.take<SortItem<uint64_t>>(p.head.batch_size * topk);
    chains = space.take<KeptChain>(p.head.batch_size * p.head.num_classes);
    blocks = space.take<KeptBlock<float>>(p.head.batch_size * blocks_per_image);
    next_block = space.take<int32_t>(p.head.batch_size * blocks_per_image);
    boxes = space.take<math::Box<float>>(soft ? p.head.batch_size * topk : 0);
    scores = space.take<float>(soft ? p.head.batch_size * topk : 0);
    labels = space.take<int64_t>(soft ? p.head.batch_size * topk : 0);
    bytes = space.bytes();
  }
};

}  // namespace retinanet_fast
