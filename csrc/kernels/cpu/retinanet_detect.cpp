// Chunks of all levels of all images are scanned in parallel, each for its own best candidates, with a bound that a
// sample of the level suggests and that rises with what has been found. Then images are finished in parallel: their
// chunks' candidates are merged, sorted, decoded one by one and suppressed until enough are kept.
#include "kernels/retinanet_detect.h"

#include "kernels/cpu/candidates.h"
#include "kernels/cpu/kept_boxes.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/sort.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

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
  int64_t i = 0;
  if (r.stride == 1) {
    for (; i + kDetectBlock <= r.length; i += kDetectBlock) {
      if (!any_at_least<kDetectBlock>(logits + i, best.bound().equal)) continue;
      for (int64_t part = i; part < i + kDetectBlock; part += kDetectPart) {
        if (!any_at_least<kDetectPart>(logits + part, best.bound().equal)) continue;
        best.take(logits + part, 1, kDetectPart, index + uint32_t(part) * r.index_step, r.index_step);
      }
    }
  }
  for (; i < r.length; i += kDetectBlock) {
    best.take(logits + i * r.stride, r.stride, min2(kDetectBlock, r.length - i), index + uint32_t(i) * r.index_step,
              r.index_step);
  }
}

SharedBound shared_bound(const RetinanetDetectParams& p, const Space& space, int64_t image, int64_t level) {
  const int64_t row = image * p.head.num_levels + level;
  return {space.bounds + row, space.runs[level].chunks > 1 ? space.histograms + row * kDetectBoundBins : nullptr};
}

void clear(const SharedBound& bound, uint64_t key) {
  *bound.key = key;
  if (bound.histogram == nullptr) return;
  for (uint64_t bin = 0; bin < kDetectBoundBins; ++bin) bound.histogram[bin] = 0;
}

// One level of one image, as runs.
template <class T>
struct LevelScan {
  const DetectRuns& runs;
  const T* logits;
  int64_t first_index;  // of the level's first logit
  const HeadLevel& level;
  int64_t channels;
  uint64_t* candidates;  // of its chunks
  int64_t* counts;

  LevelScan(const RetinanetDetectParams& p, const Space& space, int64_t image, int64_t l)
      : runs(space.runs[l]),
        logits(static_cast<const T*>(p.head.levels[l].logits) + image * p.head.levels[l].logits_strides.image),
        first_index(p.head.levels[l].first_anchor * p.head.num_classes),
        level(p.head.levels[l]),
        channels(p.head.channels()),
        candidates(space.candidates + image * space.capacity),
        counts(space.counts + image * space.chunks) {
    for (int64_t before = 0; before < l; ++before) {
      candidates += space.runs[before].chunks * space.runs[before].capacity;
      counts += space.runs[before].chunks;
    }
  }

  // Calls f(logits of run `run`, index of the first of them).
  template <class F>
  void with_run(int64_t run, const F& f) const {
    const int64_t outer = run / runs.rows;
    const int64_t row = run - outer * runs.rows;
    // Over channels a run is row `outer` of the grid, or cell `row` in it; else row `row` of channel `outer`.
    const LevelStrides& strides = level.logits_strides;
    const int64_t offset =
        runs.over_channels ? outer * strides.y + row * strides.x : outer * strides.channel + row * strides.y;
    const int64_t index =
        runs.over_channels ? (outer * level.width + row) * channels : row * level.width * channels + outer;
    f(logits + offset, uint32_t(first_index + index));
  }

  void scan_chunk(const RetinanetDetectParams& p, const SharedBound& bound, int64_t chunk) const {
    Candidates best(p, p.topk_candidates, candidates + chunk * runs.capacity, runs.capacity, bound);
    const int64_t end = min2(runs.runs, (chunk + 1) * runs.runs_per_chunk);
    for (int64_t run = chunk * runs.runs_per_chunk; run < end; ++run) {
      with_run(run, [&](const T* from, uint32_t index) { scan_run(runs, from, index, best); });
    }
    counts[chunk] = best.finish();
  }

  // A bound for the first scan, which would otherwise spend most of its work on finding one: the key that has a certain
  // rank in an even sample of the level, six standard deviations beyond the rank that the topk-th best of all is
  // expected to have there. Where high scores lie close together the guess can be wrong: if too few candidates turn out
  // to be better, the level is scanned again.
  uint64_t guess(const RetinanetDetectParams& p) const {
    constexpr int64_t kSample = kDetectSampleParts * kDetectPart;
    constexpr int64_t kSlack = 512;
    const int64_t total = runs.runs * runs.length;
    if (total < 4 * kSample || runs.length < kDetectPart) return ~uint64_t(0);
    const double expected = double(kSample) * double(p.topk_candidates) / double(total);
    const int64_t rank = int64_t(expected + 6 * std::sqrt(expected)) + 8;
    if (rank + kSlack + kDetectBlock > runs.capacity) return ~uint64_t(0);
    uint64_t key = ~uint64_t(0);
    Candidates best(p, rank, candidates, rank + kSlack + kDetectBlock, {&key, nullptr});
    for (int64_t part = 0; part < kDetectSampleParts; ++part) {
      const int64_t place = total / kDetectSampleParts * part;
      const int64_t within = min2(place % runs.length, runs.length - kDetectPart);
      with_run(place / runs.length, [&](const T* from, uint32_t index) {
        from += within * runs.stride;
        if (runs.stride == 1 && !any_at_least<kDetectPart>(from, best.bound().equal)) return;
        best.take(from, runs.stride, kDetectPart, index + uint32_t(within) * runs.index_step, runs.index_step);
      });
    }
    best.finish();
    return key;  // still ~0, no bound, if no more than `rank` passed the threshold
  }
};

template <class T>
void guess_bound(const RetinanetDetectParams& p, const Space& space, int64_t row) {
  const int64_t image = row / p.head.num_levels;
  const int64_t level = row - image * p.head.num_levels;
  space.guesses[row] = LevelScan<T>(p, space, image, level).guess(p);
  clear(shared_bound(p, space, image, level), space.guesses[row]);
}

// Task `task` of the batch is a chunk of one level of one image.
template <class T>
void scan_chunk(const RetinanetDetectParams& p, const Space& space, int64_t task) {
  const int64_t image = task / space.chunks;
  int64_t chunk = task - image * space.chunks;
  int64_t l = 0;
  while (chunk >= space.runs[l].chunks) chunk -= space.runs[l++].chunks;
  LevelScan<T>(p, space, image, l).scan_chunk(p, shared_bound(p, space, image, l), chunk);
}

// Scans again those levels of an image whose guess was wrong.
template <class T>
void mend_guesses(const RetinanetDetectParams& p, const Space& space, int64_t image) {
  for (int64_t l = 0; l < p.head.num_levels; ++l) {
    if (space.guesses[image * p.head.num_levels + l] == ~uint64_t(0)) continue;
    const LevelScan<T> scan(p, space, image, l);
    int64_t found = 0;
    for (int64_t chunk = 0; chunk < scan.runs.chunks; ++chunk) found += scan.counts[chunk];
    if (found >= p.topk_candidates) continue;
    const SharedBound bound = shared_bound(p, space, image, l);
    clear(bound, ~uint64_t(0));
    for (int64_t chunk = 0; chunk < scan.runs.chunks; ++chunk) scan.scan_chunk(p, bound, chunk);
  }
}

// The best candidates of an image, best first.
const SortItem<uint64_t>* sort_candidates(const RetinanetDetectParams& p, const Space& space, int64_t image,
                                          int64_t& count) {
  uint64_t* chunk = space.candidates + image * space.capacity;
  const int64_t* chunk_count = space.counts + image * space.chunks;
  SortItem<uint64_t>* const items[2] = {space.items[0] + image * space.topk, space.items[1] + image * space.topk};
  count = 0;
  for (int64_t l = 0; l < p.head.num_levels; ++l) {
    uint64_t* level = chunk;
    int64_t found = 0;
    for (int64_t c = 0; c < space.runs[l].chunks; ++c, chunk += space.runs[l].capacity, ++chunk_count) {
      for (int64_t i = 0; i < *chunk_count; ++i) level[found++] = chunk[i];
    }
    if (found > p.topk_candidates) {
      select_smallest(level, found, p.topk_candidates);
      found = p.topk_candidates;
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

  bool full() const { return count_ == p_.detections_per_img; }

  void add(const Detection& detection) { write(count_++, detection); }

  void pad() {
    p_.counts[image_] = count_;
    for (int64_t i = count_; i < p_.detections_per_img; ++i) write(i, {{0.0f, 0.0f, 0.0f, 0.0f}, 0.0f, -1});
  }

 private:
  void write(int64_t i, const Detection& detection) {
    const int64_t at = image_ * p_.detections_per_img + i;
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
  const Deltas<double> deltas = dispatch_dtype(
      p.head.deltas_dtype, [&](auto zero) { return load_candidate_deltas<decltype(zero)>(p, image, c); });
  const int64_t* size = p.image_sizes + 2 * image;
  return {decode_candidate(p, c, deltas, double(size[0]), double(size[1])), candidate_score(key), c.label};
}

void suppress(const RetinanetDetectParams& p, const Space& space, int64_t image, const SortItem<uint64_t>* items,
              int64_t count, ImageOutput& out) {
  const IouThreshold<float> threshold(p.nms_thresh);
  KeptPool<float> pool{space.blocks + image * space.blocks_per_image,
                       space.next_block + image * space.blocks_per_image};
  KeptChain* chains = space.chains + image * p.head.num_classes;
  for (int64_t c = 0; c < p.head.num_classes; ++c) chains[c] = KeptChain{};
  for (int64_t i = 0; i < count && !out.full(); ++i) {
    const Detection candidate = decode_item(p, image, items[i].key);
    const float box_area = area(candidate.box);
    if (pool.suppresses(chains[candidate.label], candidate.box, box_area, threshold)) continue;
    pool.add(chains[candidate.label], candidate.box, box_area);
    out.add(candidate);
  }
}

// Each detection lowers the scores of its class by overlap. The next is the best of those left, of equals the first.
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
  const Space space(params.workspace, params);
  if (params.workspace == nullptr) {
    *params.workspace_bytes = space.bytes;
    return {};
  }
  RetinanetDetectParams p = params;
  if (p.class_thresh != nullptr) {
    p.score_thresh = std::numeric_limits<float>::infinity();
    for (int64_t c = 0; c < p.head.num_classes; ++c) p.score_thresh = min2(p.class_thresh[c], p.score_thresh);
  }
  dispatch_dtype(p.head.logits_dtype, [&](auto zero) {
    using T = decltype(zero);
    executor.parallel_for(p.head.batch_size * p.head.num_levels, [&](int64_t row) { guess_bound<T>(p, space, row); });
    executor.parallel_for(p.head.batch_size * space.chunks, [&](int64_t task) { scan_chunk<T>(p, space, task); });
    executor.parallel_for(p.head.batch_size, [&](int64_t image) {
      mend_guesses<T>(p, space, image);
      finish_image(p, space, image);
    });
  });
  return {};
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
