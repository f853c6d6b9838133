// From logits to detections in five launches, without synchronisation with the host. (Thresholds per class take one
// more, and image sizes on the host one merge_kernel per kSizesAtOnce images.) A row is one level of one image.
//
//   guess_kernel     one block per row: from a sample of the row, a bound that somewhat more than topk logits should
//                    pass. It is the threshold if few pass that, or if there is room for the whole row.
//   collect_kernel   one block per tile of a row: collects what passes the bound. If nothing does, as in most vectors,
//                    a logit costs one comparison.
//   sort_kernel      one block per row: selects topk of what was collected (of the row itself if the guess was wrong),
//                    and sorts them.
//   merge_kernel     one thread per candidate: finds its rank among all levels by binary searches, and decodes it.
//   suppress_kernel  one block per image: compares 64 candidates at a time with the kept ones and with each other,
//                    until enough are kept. Or soft_suppress_kernel: takes the best candidate and lowers the scores
//                    of the others of its class, until enough are taken.
//
// Moves the logits once, and a sample of them (small levels whole) once more; all else is small beside them.
// Deterministic: whatever was guessed, exactly the best candidates are sorted, and their keys are distinct, so that the
// order of blocks and atomics does not show in the result.
#include "kernels/cuda/retinanet_detect_suppress.cuh"

namespace retinanet_fast {
inline namespace retinanet_detect_cu {

constexpr int64_t kSharedKeys = 4096;

// The guessed bound is the logit of a certain rank in the sample: four standard deviations and a little beyond the rank
// that the topk-th best of the row is expected to have there, so that the bound is hardly ever too high. `most` keeps
// it from being so low that there is no room for what passes.
template <class T>
DetectLevelPlan plan_level(const RetinanetDetectParams& p, const DetectCudaWorkspace& space, int64_t level) {
  constexpr int64_t kLeastSample = 32768;
  constexpr int64_t kLeastShare = 1024;  // a sample has at least one in this many logits
  const int64_t size = level_candidates(p, level);
  DetectLevelPlan plan{};
  if (size <= space.room) return plan;
  int64_t sample = kLeastSample;
  while (sample < size / kLeastShare) sample *= 2;
  if (size <= 2 * sample) {  // then all of it is the sample
    plan.rank = uint32_t(p.topk_candidates);
    plan.most = uint32_t(space.room);
    return plan;
  }
  const double share = double(sample) / double(size);
  const double expected = share * double(p.topk_candidates);
  plan.sample = uint32_t(sample / kVector<T>);
  plan.rank = uint32_t(expected + 4 * std::sqrt(expected) + 4);
  plan.most = uint32_t(max2(double(plan.rank), share * double(space.room) / 2));
  return plan;
}

template <class T>
Status select(Detect& d, CudaStream stream) {
  for (int64_t level = 0; level < d.p.head.num_levels; ++level) {
    d.levels[level] = plan_level<T>(d.p, d.space, level);
    d.levels[level].first_tile = d.tiles;
    const int64_t vectors = ceil_div(level_candidates(d.p, level), kVector<T>);
    d.tiles += uint32_t(ceil_div(vectors + (vectors > 0), kTileVectors));  // a row off 16 bytes has one vector more
  }
  const dim3 rows(unsigned(d.p.head.batch_size * d.p.head.num_levels));
  Status status = launch(guess_kernel<T>, rows, dim3(kBoundThreads), 0, stream, d);
  if (status.ok()) {
    status =
        launch(collect_kernel<T>, dim3(unsigned(d.p.head.batch_size) * d.tiles), dim3(kCollectThreads), 0, stream, d);
  }
  const size_t shared = d.space.keys_per_row <= kSharedKeys ? size_t(d.space.keys_per_row) * sizeof(uint64_t) : 0;
  if (status.ok()) status = launch(sort_kernel<T>, rows, dim3(kBoundThreads), shared, stream, d);
  return status;
}

// Image sizes from the host are kernel arguments, kSizesAtOnce images per launch.
template <class D>
Status merge(const Detect& d, CudaStream stream) {
  const int64_t images_at_once = d.p.image_sizes_on_host ? kSizesAtOnce : d.p.head.batch_size;
  const unsigned blocks = unsigned(max2(int64_t(1), ceil_div(d.space.most, kMergeThreads)));
  Status status;
  for (int64_t first = 0; first < d.p.head.batch_size && status.ok(); first += images_at_once) {
    const int64_t images = min2(images_at_once, d.p.head.batch_size - first);
    HostSizes sizes{};
    for (int64_t i = 0; d.p.image_sizes_on_host && i < 2 * images; ++i)
      sizes.values[i] = d.p.image_sizes[2 * first + i];
    status = launch(merge_kernel<D>, dim3(blocks, unsigned(images * d.p.head.num_levels)), dim3(kMergeThreads), 0,
                    stream, d, sizes, first);
  }
  return status;
}

Status suppress(const Detect& d, CudaStream stream) {
  const dim3 images(unsigned(d.p.head.batch_size));
  if (d.p.soft_nms != SoftNms::kNone) {
    return launch(soft_suppress_kernel, images, dim3(kSoftThreads), 0, stream, d, floor_to<float>(d.p.nms_thresh));
  }
  const size_t shared = size_t(min2(d.p.detections_per_img, kKeptInShared)) * sizeof(LabelledBox);
  return launch(suppress_kernel, images, dim3(kSuppressThreads), shared, stream, d,
                IouThreshold<float>(d.p.nms_thresh));
}

}  // namespace retinanet_detect_cu

Status retinanet_detect_cuda(const RetinanetDetectParams& p, CudaStream stream) {
  const DetectCudaWorkspace space(p.workspace, p);
  if (p.workspace == nullptr) {
    *p.workspace_bytes = space.bytes;
    return {};
  }
  Detect d{p, space, {}, 0, {}, uint32_t(kSharedKeys)};
  Status status;
  if (p.class_thresh == nullptr) {
    d.threshold = bound_by_threshold(p.score_thresh);
  } else {
    status = launch(class_thresholds_kernel, dim3(1), dim3(kCollectThreads), 0, stream, d);
  }
  if (status.ok()) {
    status = dispatch_dtype(p.head.logits_dtype, [&](auto zero) { return select<decltype(zero)>(d, stream); });
  }
  if (status.ok()) {
    status = dispatch_dtype(p.head.deltas_dtype, [&](auto zero) { return merge<decltype(zero)>(d, stream); });
  }
  if (status.ok()) status = suppress(d, stream);
  return status;
}

}  // namespace retinanet_fast
