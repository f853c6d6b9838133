// The first bad row of a tensor, in whatever order tasks find them.
#pragma once

#include <cstdint>

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {
namespace {

// Lowers `lowest` to `row`, unless it is lower already; -1 means that there was none so far.
inline void keep_lowest(int64_t& lowest, int64_t row) {
  int64_t seen = __atomic_load_n(&lowest, __ATOMIC_RELAXED);
  while ((seen < 0 || row < seen) &&
         !__atomic_compare_exchange_n(&lowest, &seen, row, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

}  // namespace
}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
