// A stable sort of (key, index) items by ascending key: insertion sort for a few, else radix sort from the lowest byte.
// Included by CPU kernels only: everything lives in the namespace of their x86-64 level.
#pragma once

#include "kernels/cpu/nms_workspace.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

template <class K>
inline void insertion_sort(SortItem<K>* items, int64_t n) {
  for (int64_t i = 1; i < n; ++i) {
    const SortItem<K> item = items[i];
    int64_t j = i;
    for (; j > 0 && items[j - 1].key > item.key; --j) items[j] = items[j - 1];
    items[j] = item;
  }
}

// Sorts items[0] by the low `key_bytes` bytes of the keys, with items[1] as workspace; returns the one of the two that
// holds the result. Bytes that are equal in all keys are skipped.
template <class K>
inline SortItem<K>* stable_sort(SortItem<K>* const (&items)[2], int64_t n, int key_bytes = sizeof(K)) {
  constexpr int64_t kFew = 48;
  if (n <= kFew) {
    insertion_sort(items[0], n);
    return items[0];
  }
  uint32_t counts[sizeof(K)][256] = {};
  for (int64_t i = 0; i < n; ++i) {
    for (int byte = 0; byte < key_bytes; ++byte) ++counts[byte][(items[0][i].key >> (8 * byte)) & 255];
  }
  SortItem<K>* from = items[0];
  SortItem<K>* to = items[1];
  for (int byte = 0; byte < key_bytes; ++byte) {
    uint32_t* count = counts[byte];
    if (count[(from[0].key >> (8 * byte)) & 255] == n) continue;
    uint32_t before = 0;
    for (int digit = 0; digit < 256; ++digit) {
      const uint32_t here = count[digit];
      count[digit] = before;
      before += here;
    }
    for (int64_t i = 0; i < n; ++i) to[count[(from[i].key >> (8 * byte)) & 255]++] = from[i];
    SortItem<K>* sorted = to;
    to = from;
    from = sorted;
  }
  return from;
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
