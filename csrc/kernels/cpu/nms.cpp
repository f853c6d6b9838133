// Boxes are sorted by score and then, stably, by class. Classes do not affect each other: parallel tasks of one class
// or several suppress the boxes of one after the other.
#include "kernels/nms.h"

#include "kernels/cpu/first_kept.h"
#include "kernels/cpu/kept_grid.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/nms_workspace.h"
#include "kernels/cpu/sort.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

namespace {

template <class T>
SortItem<Key<ComputeType<T>>>* sort_by_score(const NmsParams& p, const NmsCpuWorkspace<ComputeType<T>>& space) {
  const T* scores = static_cast<const T*>(p.scores);
  for (int64_t i = 0; i < p.n; ++i) space.by_score[0][i] = {descending_key(load(scores[i])), uint32_t(i)};
  return stable_sort(space.by_score, p.n);
}

// Ranks ordered by class, and within a class by rank.
template <class C>
SortItem<uint64_t>* sort_by_class(const NmsParams& p, const NmsCpuWorkspace<C>& space,
                                  const SortItem<Key<C>>* by_score) {
  int64_t lowest = p.classes[0];
  uint64_t used_bits = 0;
  for (int64_t i = 0; i < p.n; ++i) lowest = min2(lowest, p.classes[i]);
  for (int64_t rank = 0; rank < p.n; ++rank) {
    const uint64_t key = uint64_t(p.classes[by_score[rank].index]) - uint64_t(lowest);
    used_bits |= key;
    space.by_class[0][rank] = {key, uint32_t(rank)};
  }
  int used_bytes = 0;
  for (; used_bytes < 8 && used_bits >> (8 * used_bytes); ++used_bytes) {
  }
  return stable_sort(space.by_class, p.n, used_bytes);
}

// Tasks of whole classes, each but the last with at least kNmsTaskBoxes boxes.
int64_t cut_tasks(const SortItem<uint64_t>* by_class, int64_t n, NmsTask* tasks) {
  int64_t num_tasks = 0;
  int64_t begin = 0;
  for (int64_t i = 1; i <= n; ++i) {
    const bool class_ends = i == n || by_class[i].key != by_class[i - 1].key;
    if (i == n || (class_ends && i - begin >= kNmsTaskBoxes)) {
      tasks[num_tasks++] = {begin, i};
      begin = i;
    }
  }
  return num_tasks;
}

// Suppresses the `n` boxes of one class, whose i-th by score has rank rank_of(i), in the workspace of `task`, whose
// boxes begin at `begin`.
template <class T, class RankOf>
void suppress(const NmsParams& p, const NmsCpuWorkspace<ComputeType<T>>& space,
              const SortItem<Key<ComputeType<T>>>* by_score, int64_t begin, int64_t task, int64_t n,
              const RankOf& rank_of) {
  using C = ComputeType<T>;
  const IouThreshold<C> threshold(p.iou_threshold);
  const int64_t first_block = kept_blocks_before(begin, task);
  KeptPool<C> pool{space.blocks + first_block, space.next_block + first_block};
  const auto box_of = [&](int64_t i) {
    return load_box(static_cast<const T*>(p.boxes) + 4 * int64_t(by_score[rank_of(i)].index));
  };
  KeptGrid<C> grid;
  KeptChain chain;
  const bool in_grid = grid.lay_out(n, box_of, threshold, pool, space.cells + kept_cells_before(begin, task));
  const auto keeps = [&](const Box<C>& box) {
    if (in_grid) return grid.keeps(box);
    const C box_area = area(box);
    if (pool.suppresses(chain, box, box_area, threshold)) return false;
    pool.add(chain, box, box_area);
    return true;
  };
  FirstKept<C> first_kept(threshold);
  int64_t i = 0;
  for (; in_grid && first_kept.on() && i < n; i += FirstKept<C>::kLanes) {
    first_kept.compare(i, n, box_of);
    for (int64_t j = i; j < min2(n, i + FirstKept<C>::kLanes); ++j) {
      const bool keep = !first_kept.suppressed()[j - i] && keeps(box_of(j));
      if (keep) first_kept.add(box_of(j));
      space.is_kept[rank_of(j)] = keep;
    }
  }
  for (; i < n; ++i) space.is_kept[rank_of(i)] = keeps(box_of(i));
}

template <class T>
void suppress_by_class(const NmsParams& p, const NmsCpuWorkspace<ComputeType<T>>& space,
                       const SortItem<Key<ComputeType<T>>>* by_score, const Executor& executor) {
  const SortItem<uint64_t>* by_class = sort_by_class(p, space, by_score);
  const int64_t num_tasks = cut_tasks(by_class, p.n, space.tasks);
  executor.parallel_for(num_tasks, [&](int64_t task) {
    const auto [task_begin, task_end] = space.tasks[task];
    for (int64_t begin = task_begin; begin < task_end;) {
      int64_t end = begin + 1;
      while (end < task_end && by_class[end].key == by_class[begin].key) ++end;
      suppress<T>(p, space, by_score, task_begin, task, end - begin,
                  [&](int64_t i) { return int64_t(by_class[begin + i].index); });
      begin = end;
    }
  });
}

}  // namespace

Status nms(const NmsParams& p, const Executor& executor) {
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const NmsCpuWorkspace<ComputeType<T>> space(p.workspace, p.n, p.classes != nullptr);
    if (p.workspace == nullptr) {
      *p.workspace_bytes = space.bytes;
      return Status{};
    }
    const auto* by_score = sort_by_score<T>(p, space);
    if (p.classes != nullptr) {
      suppress_by_class<T>(p, space, by_score, executor);
    } else {
      suppress<T>(p, space, by_score, 0, 0, p.n, [](int64_t i) { return i; });
    }
    int64_t count = 0;
    for (int64_t rank = 0; rank < p.n; ++rank) {
      p.kept[count] = by_score[rank].index;
      count += space.is_kept[rank];
    }
    *p.count = count;
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
