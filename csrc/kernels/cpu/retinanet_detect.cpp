// Chunks of all levels of all images are scanned in parallel, each for its own best candidates; then images are
// finished in parallel: the chunks' candidates merged, sorted, decoded one by one and suppressed until enough are kept.
#include "kernels/retinanet_detect.h"

#include "kernels/cpu/candidates.h"
#include "kernels/cpu/kept_boxes.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/sort.h"

namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL {

using namespace math;

namespace {

using Space = DetectCpuWorkspace;

// ---- select -------------------------------------------------------------------------------------------------------

template <int64_t kCount, class T>
bool any_at_least(const T* logits, float bound) {
  int32_t any = 0;
#pragma omp simd reduction(| : any)  // without it the compiler unrolls a short loop and forgets about vectors
  for (int64_t i = 0; i < kCount; ++i) any |= int32_t(float(load(logits[i])) >= bound);
  return any != 0;
}

template <class T>
void scan_run(const DetectRuns& r, const T* logits, uint32_t index, Candidates& best) {
  constexpr int64_t kPart = 16;
  int64_t i = 0;
  if (r.stride == 1) {
    for (; i + kDetectBlock <= r.length; i += kDetectBlock) {
      if (!any_at_least<kDetectBlock>(logits + i, best.bound().equal)) continue;
      for (int64_t part = i; part < i + kDetectBlock; part += kPart) {
        if (!any_at_least<kPart>(logits + part, best.bound().equal)) continue;
        best.take(logits + part, 1, kPart, index + uint32_t(part) * r.index_step, r.index_step);
      }
    }
  }
  for (; i < r.length; i += kDetectBlock) {
    best.take(logits + i * r.stride, r.stride, min2(kDetectBlock, r.length - i), index + uint32_t(i) * r.index_step,
              r.index_step);
  }
}

// Task `task` of the batch: a chunk of one level of one image.
template <class T>
void scan_chunk(const RetinanetDetectParams& p, const Space& space, int64_t task) {
  const int64_t image = task / space.chunks;
  int64_t chunk = task - image * space.chunks;
  int64_t capacity_before = image * space.capacity;
  int64_t l = 0;
  for (; chunk >= space.runs[l].chunks; chunk -= space.runs[l++].chunks) {
    capacity_before += space.runs[l].chunks * space.runs[l].capacity;
  }
  const DetectRuns& r = space.runs[l];
  const DetectLevel& level = p.levels[l];
  const T* logits = static_cast<const T*>(level.logits) + image * level.logits_strides[0];
  const int64_t channels = p.shapes * p.num_classes;
  Candidates best(p, space.candidates + capacity_before + chunk * r.capacity, r.capacity,
                  space.bounds + image * p.num_levels + l);
  const int64_t end = min2(r.runs, (chunk + 1) * r.runs_per_chunk);
  for (int64_t run = chunk * r.runs_per_chunk; run < end; ++run) {
    const int64_t outer = run / r.rows;
    const int64_t row = run - outer * r.rows;
    // Over channels a run is row `outer` of the grid, or its cell `row`; else row `row` of channel `outer`.
    const int64_t offset = r.over_channels ? outer * level.logits_strides[2] + row * level.logits_strides[3]
                                           : outer * level.logits_strides[1] + row * level.logits_strides[2];
    const int64_t index =
        r.over_channels ? (outer * level.width + row) * channels : row * level.width * channels + outer;
    scan_run(r, logits + offset, uint32_t(level.first_anchor * p.num_classes + index), best);
  }
  space.counts[task] = best.settle();
}

// The best candidates of an image, best first.
const SortItem<uint64_t>* sort_candidates(const RetinanetDetectParams& p, const Space& space, int64_t image,
                                          int64_t& count) {
  uint64_t* chunk = space.candidates + image * space.capacity;
  const int64_t* chunk_count = space.counts + image * space.chunks;
  SortItem<uint64_t>* const items[2] = {space.items[0] + image * space.topk, space.items[1] + image * space.topk};
  count = 0;
  for (int64_t l = 0; l < p.num_levels; ++l) {
    uint64_t* level = chunk;
    int64_t found = 0;
    for (int64_t c = 0; c < space.runs[l].chunks; ++c, chunk += space.runs[l].capacity, ++chunk_count) {
      for (int64_t i = 0; i < *chunk_count; ++i) level[found++] = chunk[i];
    }
    if (found > p.topk) {
      select_smallest(level, found, p.topk);
      found = p.topk;
    }
    for (int64_t i = 0; i < found; ++i) items[0][count++] = {level[i], 0};
  }
  return stable_sort(items, count);
}

// ---- decode and suppress ------------------------------------------------------------------------------------------

struct Detection {
  Box<float> box;
  float score;
  int64_t label;
};

class ImageOutput {
 public:
  ImageOutput(const RetinanetDetectParams& p, int64_t image) : p_(p), image_(image) {}

  bool full() const { return count_ == p_.max_detections; }

  void add(const Detection& detection) { write(count_++, detection); }

  void pad() {
    p_.counts[image_] = count_;
    for (int64_t i = count_; i < p_.max_detections; ++i) write(i, {{0.0f, 0.0f, 0.0f, 0.0f}, 0.0f, -1});
  }

 private:
  void write(int64_t i, const Detection& detection) {
    const int64_t at = image_ * p_.max_detections + i;
    store_box(p_.boxes + 4 * at, detection.box);
    p_.scores[at] = detection.score;
    p_.labels[at] = detection.label;
  }

  const RetinanetDetectParams& p_;
  int64_t image_;
  int64_t count_ = 0;
};

Detection decode_item(const RetinanetDetectParams& p, int64_t image, uint64_t key) {
  const Candidate c = locate(p, candidate_index(key));
  const Deltas<double> deltas =
      dispatch_dtype(p.deltas_dtype, [&](auto zero) { return load_candidate_deltas<decltype(zero)>(p, image, c); });
  const int64_t* size = p.image_sizes + 2 * image;
  return {decode_candidate(p, c, deltas, double(size[0]), double(size[1])), candidate_score(key), c.label};
}

void suppress(const RetinanetDetectParams& p, const Space& space, int64_t image, const SortItem<uint64_t>* items,
              int64_t count, ImageOutput& out) {
  const IouThreshold<float> threshold(p.nms_thresh);
  KeptPool<float> pool{space.blocks + image * space.blocks_an_image, space.next_block + image * space.blocks_an_image};
  KeptChain* chains = space.chains + image * p.num_classes;
  for (int64_t c = 0; c < p.num_classes; ++c) chains[c] = KeptChain{};
  for (int64_t i = 0; i < count && !out.full(); ++i) {
    const Detection candidate = decode_item(p, image, items[i].key);
    const float box_area = area(candidate.box);
    if (pool.suppresses(chains[candidate.label], candidate.box, box_area, threshold)) continue;
    pool.add(chains[candidate.label], candidate.box, box_area);
    out.add(candidate);
  }
}

// Each detection lowers the scores of its class by overlap; the best of what is left, the first among equals, is next.
void suppress_softly(const RetinanetDetectParams& p, const Space& space, int64_t image, const SortItem<uint64_t>* items,
                     int64_t count, ImageOutput& out) {
  const float threshold = floor_to<float>(p.nms_thresh);
  Box<float>* boxes = space.boxes + image * space.topk;
  float* scores = space.scores + image * space.topk;
  int64_t* labels = space.labels + image * space.topk;
  for (int64_t i = 0; i < count; ++i) {
    const Detection candidate = decode_item(p, image, items[i].key);
    boxes[i] = candidate.box;
    scores[i] = candidate.score;
    labels[i] = candidate.label;
  }
  constexpr float kGone = -std::numeric_limits<float>::infinity();
  while (!out.full()) {
    int64_t best = -1;
    float best_score = kGone;
    for (int64_t i = 0; i < count; ++i) {
      if (scores[i] > best_score) {
        best_score = scores[i];
        best = i;
      }
    }
    if (best < 0) break;
    out.add({boxes[best], scores[best], labels[best]});
    scores[best] = kGone;
    const float best_area = area(boxes[best]);
    const float lowest = p.class_thresh == nullptr ? p.score_thresh : p.class_thresh[labels[best]];
    for (int64_t i = 0; i < count; ++i) {
      if (labels[i] != labels[best] || scores[i] == kGone) continue;
      const float overlap = iou(boxes[best], best_area, boxes[i], area(boxes[i]));
      const float lowered = scores[i] * soft_nms_factor(p, threshold, overlap);
      scores[i] = lowered > lowest ? lowered : kGone;
    }
  }
}

void finish_image(const RetinanetDetectParams& p, const Space& space, int64_t image) {
  int64_t count = 0;
  const SortItem<uint64_t>* items = sort_candidates(p, space, image, count);
  ImageOutput out(p, image);
  if (p.soft_nms == SoftNms::kNone) {
    suppress(p, space, image, items, count, out);
  } else {
    suppress_softly(p, space, image, items, count, out);
  }
  out.pad();
}

}  // namespace

Status retinanet_detect(const RetinanetDetectParams& params, const Executor& executor) {
  RetinanetDetectParams p = params;
  if (p.class_thresh != nullptr) {
    p.score_thresh = std::numeric_limits<float>::infinity();
    for (int64_t c = 0; c < p.num_classes; ++c) p.score_thresh = min2(p.class_thresh[c], p.score_thresh);
  }
  const Space space(p.workspace, p);
  for (int64_t i = 0; i < p.batch * p.num_levels; ++i) space.bounds[i] = ~uint64_t(0);
  dispatch_dtype(p.logits_dtype, [&](auto zero) {
    using T = decltype(zero);
    executor.parallel_for(p.batch * space.chunks, [&](int64_t task) { scan_chunk<T>(p, space, task); });
  });
  executor.parallel_for(p.batch, [&](int64_t image) { finish_image(p, space, image); });
  return {};
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL
