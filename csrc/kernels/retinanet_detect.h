// Detection from the head's own outputs: select the best candidates of each image and level, decode them, suppress
// class by class, and stop at a fixed number of detections an image.
#pragma once

#include "kernels/anchors.h"
#include "kernels/nms.h"
#include "math/box_coding.h"
#include "math/score.h"

namespace retinanet_fast {

enum class SoftNms : int8_t { kNone, kLinear, kGaussian };

// A candidate's index is anchor * C + class over all levels, anchors ordered by level, y, x, k.
struct RetinanetDetectParams {
  HeadLevels head;
  Anchors anchors;
  const int64_t* image_sizes;  // [B, 2] height, width; on the host or on the device
  bool image_sizes_on_host;
  float score_thresh;         // where class_thresh is null
  const float* class_thresh;  // [C], or null
  double nms_thresh;
  SoftNms soft_nms;
  double sigma;  // of the Gaussian
  int64_t topk;
  int64_t max_detections;  // D
  double weights[4];
  double max_log_scale;
  float* boxes;     // [B, D, 4]
  float* scores;    // [B, D]
  int64_t* labels;  // [B, D]
  int64_t* counts;  // [B]
  void* workspace;
};

RETINANET_FAST_INLINE int64_t level_candidates(const RetinanetDetectParams& p, int64_t level) {
  return p.head.levels[level].height * p.head.levels[level].width * p.head.channels();
}

// The most candidates of one level that are decoded, and of one image.
RETINANET_FAST_INLINE int64_t level_topk(const RetinanetDetectParams& p, int64_t level) {
  return math::min2(p.topk, level_candidates(p, level));
}

RETINANET_FAST_INLINE int64_t image_topk(const RetinanetDetectParams& p) {
  int64_t total = 0;
  for (int64_t level = 0; level < p.head.num_levels; ++level) total += level_topk(p, level);
  return total;
}

// Where a candidate lies, and what belongs to it.
struct Candidate {
  int32_t level;
  int64_t label;
  int64_t k;
  int64_t y;
  int64_t x;
  int64_t anchor;  // over all levels
};

RETINANET_FAST_INLINE Candidate locate(const RetinanetDetectParams& p, uint32_t index) {
  Candidate c;
  c.anchor = index / uint32_t(p.head.num_classes);
  c.label = index - c.anchor * p.head.num_classes;
  c.level = 0;
  while (c.level + 1 < p.head.num_levels && c.anchor >= p.head.levels[c.level + 1].first_anchor) ++c.level;
  const HeadLevel& level = p.head.levels[c.level];
  const int64_t in_level = c.anchor - level.first_anchor;
  const int64_t cell = in_level / p.head.anchors_per_cell;
  c.k = in_level - cell * p.head.anchors_per_cell;
  c.y = cell / level.width;
  c.x = cell - c.y * level.width;
  return c;
}

RETINANET_FAST_INLINE math::Box<float> candidate_anchor(const RetinanetDetectParams& p, const Candidate& c) {
  if (p.anchors.boxes) return anchor_at<float>(p.anchors, c.anchor);
  const float* base_anchor = p.anchors.base_anchors + 4 * (c.level * p.anchors.anchors_per_cell + c.k);
  return grid_anchor(base_anchor, p.anchors.levels[c.level], c.y, c.x);
}

template <class T>
RETINANET_FAST_INLINE math::Deltas<double> load_candidate_deltas(const RetinanetDetectParams& p, int64_t image,
                                                                 const Candidate& c) {
  const HeadLevel& level = p.head.levels[c.level];
  const LevelStrides& strides = level.deltas_strides;
  const int64_t stride = strides.channel;
  const T* at = static_cast<const T*>(level.deltas) + image * strides.image + 4 * c.k * stride + c.y * strides.y +
                c.x * strides.x;
  return {float(math::load(at[0])), float(math::load(at[stride])), float(math::load(at[2 * stride])),
          float(math::load(at[3 * stride]))};
}

// The candidate's box, clipped to its image: from float32 values, computed in double and rounded once, so that every
// device and the eager twin get the same bits.
RETINANET_FAST_INLINE math::Box<float> decode_candidate(const RetinanetDetectParams& p, const Candidate& c,
                                                        const math::Deltas<double>& deltas, double height,
                                                        double width) {
  const math::Box<float> anchor = candidate_anchor(p, c);
  const math::Box<double> wide{anchor.x1, anchor.y1, anchor.x2, anchor.y2};
  const auto box =
      math::clip(math::decode(deltas, wide, math::BoxWeights<double>(p.weights), p.max_log_scale), height, width);
  return {float(box.x1), float(box.y1), float(box.x2), float(box.y2)};
}

// The factor by which soft suppression lowers a score; 1 for an IoU that is NaN.
RETINANET_FAST_INLINE float soft_nms_factor(const RetinanetDetectParams& p, float threshold, float iou) {
  if (p.soft_nms == SoftNms::kLinear) return iou > threshold ? 1.0f - iou : 1.0f;
  constexpr double kLowest = -690.0;  // exp of it is 0 in float
  return iou > 0.0f ? float(math::exp_wide(math::max2(kLowest, -double(iou) * double(iou) / p.sigma))) : 1.0f;
}

// ---- the CPU's scan of a level, and its workspace ----

// A level's logits as runs of elements that lie at one stride in memory and in index, in whichever of the two orders
// (channels first or last) the elements are neighbours.
struct DetectRuns {
  bool over_channels;
  int64_t runs;
  int64_t length;
  int64_t stride;
  uint32_t index_step;
  int64_t rows;  // runs a channel, or runs a row of the grid
  int64_t runs_per_chunk;
  int64_t chunks;
  int64_t capacity;  // candidates that a chunk may hold while it is scanned
};

constexpr int64_t kDetectChunk = 1 << 18;  // logits, about; chunks are scanned in parallel
constexpr int64_t kDetectSlack = 4096;     // candidates beyond topk that a chunk collects before it drops the worst
constexpr int64_t kDetectBlock = 128;      // logits that are compared with the bound at once
constexpr int64_t kDetectPart = 16;        // and where one of them passes, so many of them
constexpr int64_t kDetectSampleParts = 1024;
// Scores are counted by the leading bits of their keys, the exponent and four bits of the mantissa, from score 1 on.
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
  r.capacity = math::min2(p.topk, most) + math::min2(kDetectSlack, most) + kDetectBlock;
  return r;
}

struct DetectCpuWorkspace {
  DetectRuns runs[kMaxLevels];
  int64_t chunks = 0;    // of an image
  int64_t capacity = 0;  // candidates of an image's chunks
  int64_t topk;          // candidates of an image that are decoded
  int64_t blocks_an_image;
  uint64_t* guesses;             // [B, L]: a key that, by a sample, more than topk candidates should be better than
  uint64_t* bounds;              // [B, L]: a key at least as bad as that of the topk-th best candidate found so far
  uint32_t* histograms;          // [B, L, kDetectBoundBins]: the candidates that scans ended with
  int64_t* counts;               // [B, chunks]: candidates that a chunk ended with
  uint64_t* candidates;          // [B, capacity]
  SortItem<uint64_t>* items[2];  // [B, topk]
  KeptChain* chains;             // [B, C]
  KeptBlock<float>* blocks;      // [B, blocks_an_image]
  int32_t* next_block;
  math::Box<float>* boxes;  // [B, topk], only for soft suppression, as the two below
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
    blocks_an_image = math::min2(p.max_detections, topk);
    const bool soft = p.soft_nms != SoftNms::kNone;
    Workspace space(base);
    guesses = space.take<uint64_t>(p.head.batch_size * p.head.num_levels);
    bounds = space.take<uint64_t>(p.head.batch_size * p.head.num_levels);
    histograms = space.take<uint32_t>(p.head.batch_size * p.head.num_levels * int64_t(kDetectBoundBins));
    counts = space.take<int64_t>(p.head.batch_size * chunks);
    candidates = space.take<uint64_t>(p.head.batch_size * capacity);
    for (auto& sorted : items) sorted = space.take<SortItem<uint64_t>>(p.head.batch_size * topk);
    chains = space.take<KeptChain>(p.head.batch_size * p.head.num_classes);
    blocks = space.take<KeptBlock<float>>(p.head.batch_size * blocks_an_image);
    next_block = space.take<int32_t>(p.head.batch_size * blocks_an_image);
    boxes = space.take<math::Box<float>>(soft ? p.head.batch_size * topk : 0);
    scores = space.take<float>(soft ? p.head.batch_size * topk : 0);
    labels = space.take<int64_t>(soft ? p.head.batch_size * topk : 0);
    bytes = space.bytes();
  }
};

RETINANET_FAST_INLINE size_t retinanet_detect_cpu_workspace_bytes(const RetinanetDetectParams& p) {
  return DetectCpuWorkspace(nullptr, p).bytes;
}

// ---- CUDA's workspace ----

constexpr int kDetectBins = 2048;           // of a histogram: 11 bits of a radix selection
constexpr int64_t kDetectSpareKeys = 1024;  // candidates beyond topk that may be collected and are then sorted out
constexpr int64_t kDetectSizesAtOnce = 64;  // images whose sizes pass from the host in one launch

// How far the selection for one image and level has come.
struct DetectState {
  math::CandidateBound bound;  // what to collect, once resolved
  int32_t resolved;
  uint32_t wanted;  // how many of the group below are among the topk
  int32_t bin;      // the group: logits of this bin,
  uint32_t prefix;  // whose key, or, when scores are settled, whose index has these leading bits
};

// Rows are images times levels.
struct DetectCudaWorkspace {
  int64_t keys_a_row;
  int64_t topk;          // candidates of an image that are decoded
  int64_t* image_sizes;  // [B, 2], only where they come from the host
  float* lowest;        // [C + 1]: the lowest logit above each class's threshold, and above any; only with class_thresh
  DetectState* states;  // [rows]
  uint32_t* histograms;     // [rows, bins]
  uint32_t* counts;         // [rows]: collected; before, candidates with a better score than the topk-th
  uint64_t* keys;           // [rows, keys_a_row]
  uint64_t* merged;         // [B, topk], best first
  math::Box<float>* boxes;  // [B, topk]
  float* scores;            // [B, topk], only for soft suppression
  int32_t* totals;          // [B]
  size_t bytes;

  RETINANET_FAST_INLINE DetectCudaWorkspace(void* base, const RetinanetDetectParams& p) {
    int64_t most = 0;
    for (int64_t level = 0; level < p.head.num_levels; ++level) most = math::max2(most, level_topk(p, level));
    keys_a_row = 1;
    while (keys_a_row < most + kDetectSpareKeys) keys_a_row *= 2;  // a bitonic sort works on powers of two
    topk = image_topk(p);
    const int64_t rows = p.head.batch_size * p.head.num_levels;
    Workspace space(base);
    image_sizes = space.take<int64_t>(p.image_sizes_on_host ? 2 * p.head.batch_size : 0);
    lowest = space.take<float>(p.class_thresh != nullptr ? p.head.num_classes + 1 : 0);
    states = space.take<DetectState>(rows);
    histograms = space.take<uint32_t>(rows * kDetectBins);
    counts = space.take<uint32_t>(rows);
    keys = space.take<uint64_t>(rows * keys_a_row);
    merged = space.take<uint64_t>(p.head.batch_size * topk);
    boxes = space.take<math::Box<float>>(p.head.batch_size * topk);
    scores = space.take<float>(p.soft_nms != SoftNms::kNone ? p.head.batch_size * topk : 0);
    totals = space.take<int32_t>(p.head.batch_size);
    bytes = space.bytes();
  }
};

RETINANET_FAST_INLINE size_t retinanet_detect_cuda_workspace_bytes(const RetinanetDetectParams& p) {
  return DetectCudaWorkspace(nullptr, p).bytes;
}

Status retinanet_detect_cuda(const RetinanetDetectParams& params, CudaStream stream);

}  // namespace retinanet_fast
