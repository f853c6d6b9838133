// From logits to detections in five launches, whatever the batch, without the host looking at anything. A row is an
// image's level; the logits are read once.
//
//   guess_kernel     a block per row: from a sample of the row, a bound that somewhat more than topk should pass. It is
//                    the threshold where few pass that, or where there is room for all of them.
//   collect_kernel   a block per tile, a row having as many as it is long: collects what passes the bound. Where
//   nothing
//                    does, a logit costs one comparison.
//   sort_kernel      a block per row: selects topk of what was collected, or of the row itself where the guess was
//                    wrong, and sorts them.
//   merge_kernel     a thread per candidate: its rank among all levels by binary searches; decodes it there.
//   suppress_kernel  a block per image: 64 candidates at a time against the kept ones and among themselves, until
//                    enough are kept. soft_suppress_kernel: the best of all again and again, scores lowered in between.
//
// Whatever a guess was, the candidates that are sorted are exactly the best, and their keys are distinct: no order of
// blocks or atomics shows in the result.
#include "kernels/cuda/retinanet_detect_suppress.cuh"

namespace retinanet_fast {
namespace {

constexpr int64_t kSharedKeys = 4096;

// A bound drawn from a sample is the logit that a rank in the sample has. That rank lies above the one that the topk-th
// best of all is expected to have by four standard deviations and a little, so that hardly any guess is too high, and
// is not so low that there would be no room for what passes.
template <class T>
DetectLevelPlan plan_level(const RetinanetDetectParams& p, const DetectCudaWorkspace& space, int64_t level) {
  constexpr int64_t kLeastSample = 32768;
  constexpr int64_t kLeastShare = 1024;  // a sample has at least one of so many logits
  const int64_t size = level_candidates(p, level);
  DetectLevelPlan plan{};
  if (size <= space.room) return plan;
  int64_t sample = kLeastSample;
  while (sample < size / kLeastShare) sample *= 2;
  if (size <= 2 * sample) {  // then the whole level will do
    plan.rank = uint32_t(p.topk);
    plan.most = uint32_t(space.room);
    return plan;
  }
  const double share = double(sample) / double(size);
  const double expected = share * double(p.topk);
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
    d.tiles += uint32_t(ceil_div(vectors + (vectors > 0), kTileVectors));  // one more where the row is not aligned
  }
  const dim3 rows(unsigned(d.p.head.batch_size * d.p.head.num_levels));
  Status status = launch(guess_kernel<T>, rows, dim3(kBoundThreads), 0, stream, d);
  if (status.ok()) {
    status =
        launch(collect_kernel<T>, dim3(unsigned(d.p.head.batch_size) * d.tiles), dim3(kCollectThreads), 0, stream, d);
  }
  const size_t shared = d.space.keys_a_row <= kSharedKeys ? size_t(d.space.keys_a_row) * sizeof(uint64_t) : 0;
  if (status.ok()) status = launch(sort_kernel<T>, rows, dim3(kBoundThreads), shared, stream, d);
  return status;
}

// Sizes from the host come along as arguments.
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
  const size_t shared = size_t(min2(d.p.max_detections, kKeptInShared)) * sizeof(LabelledBox);
  return launch(suppress_kernel, images, dim3(kSuppressThreads), shared, stream, d,
                IouThreshold<float>(d.p.nms_thresh));
}

}  // namespace

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
