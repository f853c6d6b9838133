// Streaming kernels over rows of four values: a thread takes as many rows as fill 16 bytes, so that every load and
// store moves 16 bytes.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "math/scalar.h"

namespace retinanet_fast {

constexpr int kRowThreads = 256;

// A thread's rows: 32 bytes of double, 16 of anything narrower.
template <class T>
struct RowPack {
  static constexpr int kRows = sizeof(T) == 2 ? 2 : 1;
  static constexpr int kVectors = kRows * 4 * int(sizeof(T)) / 16;
  alignas(16) T values[kRows * 4];

  // `rows` is the number of rows from `from` to the end; `aligned` says that `from` lies on a 16-byte boundary.
  __device__ void load(const T* from, int64_t rows, bool aligned) {
    if (aligned && rows >= kRows) {
      for (int i = 0; i < kVectors; ++i) reinterpret_cast<uint4*>(values)[i] = reinterpret_cast<const uint4*>(from)[i];
    } else {
      for (int i = 0; i < kRows * 4; ++i) values[i] = i < 4 * rows ? from[i] : T{};
    }
  }

  __device__ void store(T* to, int64_t rows, bool aligned) const {
    if (aligned && rows >= kRows) {
      for (int i = 0; i < kVectors; ++i) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(values)[i];
    } else {
      for (int i = 0; i < kRows * 4; ++i) {
        if (i < 4 * rows) to[i] = values[i];
      }
    }
  }
};

template <class... Pointers>
bool all_aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

template <class T>
dim3 row_grid(int64_t rows) {
  return dim3(unsigned(ceil_div(ceil_div(rows, RowPack<T>::kRows), kRowThreads)));
}

}  // namespace retinanet_fast
