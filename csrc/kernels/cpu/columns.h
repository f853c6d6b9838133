// Rows of four numbers, boxes or deltas, as one array per column: loops over these become vector code.
// Included by CPU kernels only: everything lives in the namespace of their x86-64 level.
#pragma once

#include "kernels/common.h"
#include "math/box_coding.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

template <class C>
struct alignas(64) Columns {
  static constexpr int kRows = 128;

  C column[4][kRows];

  // Loads n rows; the others become 0. All blocks but the last are whole, and their loops have a constant length.
  template <class S>
  void load(const S* rows, int n) {
    if (n == kRows) {
      for (int i = 0; i < kRows; ++i) load_row(rows, i);
    } else {
      for (int i = 0; i < n; ++i) load_row(rows, i);
      for (int i = n; i < kRows; ++i) set(i, math::Box<C>{});
    }
  }

  template <class S>
  void store(S* rows, int n) const {
    if (n == kRows) {
      for (int i = 0; i < kRows; ++i) store_row(rows, i);
    } else {
      for (int i = 0; i < n; ++i) store_row(rows, i);
    }
  }

  RETINANET_FAST_INLINE math::Box<C> box(int i) const {
    return {column[0][i], column[1][i], column[2][i], column[3][i]};
  }
  RETINANET_FAST_INLINE math::Deltas<C> deltas(int i) const {
    return {column[0][i], column[1][i], column[2][i], column[3][i]};
  }
  RETINANET_FAST_INLINE void set(int i, const math::Box<C>& box) { set(i, box.x1, box.y1, box.x2, box.y2); }
  RETINANET_FAST_INLINE void set(int i, const math::Deltas<C>& deltas) {
    set(i, deltas.dx, deltas.dy, deltas.dw, deltas.dh);
  }

 private:
  RETINANET_FAST_INLINE void set(int i, C a, C b, C c, C d) {
    column[0][i] = a;
    column[1][i] = b;
    column[2][i] = c;
    column[3][i] = d;
  }
  template <class S>
  RETINANET_FAST_INLINE void load_row(const S* rows, int i) {
    for (int j = 0; j < 4; ++j) column[j][i] = math::load(rows[4 * i + j]);
  }
  template <class S>
  RETINANET_FAST_INLINE void store_row(S* rows, int i) const {
    for (int j = 0; j < 4; ++j) math::store(rows[4 * i + j], column[j][i]);
  }
};

// Calls body(first, n) for blocks of at most kRows rows that make up [0, rows), several blocks per task.
template <class F>
void for_each_block(const Executor& executor, int64_t rows, const F& body) {
  constexpr int64_t kRows = Columns<float>::kRows;
  constexpr int64_t kTask = 16 * kRows;
  executor.parallel_for(ceil_div(rows, kTask), [&](int64_t task) {
    const int64_t end = math::min2(rows, (task + 1) * kTask);
    for (int64_t first = task * kTask; first < end; first += kRows) body(first, int(math::min2(kRows, end - first)));
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
