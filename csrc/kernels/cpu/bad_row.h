// The first row of a tensor that tasks, in whatever order they run, find to be bad.
#pragma once

#include <cstdint>

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {
namespace {

// Of -1 (none so far) and rows: makes `lowest` the lowest row.
inline void keep_lowest(int64_t& lowest, int64_t row) {
  int64_t seen = __atomic_load_n(&lowest, __ATOMIC_RELAXED);
  while ((seen < 0 || row < seen) &&
         !__atomic_compare_exchange_n(&lowest, &seen, row, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

}  // namespace
}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
