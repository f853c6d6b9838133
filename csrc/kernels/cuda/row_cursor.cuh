// A thread goes over the elements of consecutive rows in equal steps. A cursor knows in which row it is and how many
// elements of that are left, without a division per step.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace retinanet_fast {

// Lengths are cut off at this number, far above what a block goes over, so that 32 bits are enough.
constexpr int64_t kLongRow = int64_t(1) << 30;

// A step, divided by the length of a row once, on the host.
struct RowStep {
  int32_t length;  // of a row
  int32_t rows;    // whole rows per step
  int32_t rest;    // elements per step beyond these

  RowStep(int64_t row_length, int32_t step)
      : length(int32_t(row_length < kLongRow ? row_length : kLongRow)),
        rows(int32_t(step / row_length)),
        rest(int32_t(step % row_length)) {}
};

struct RowCursor {
  int64_t first = 0;  // row of the element at which it began
  int32_t row = 0;    // counted from that row
  int32_t left = 0;   // elements of the row, from the current one on

  RowCursor() = default;
  __device__ RowCursor(int64_t element, int64_t row_length) : first(element / row_length) {
    const int64_t all = (first + 1) * row_length - element;
    left = int32_t(all < kLongRow ? all : kLongRow);
  }

  __device__ void advance(const RowStep& step) {
    row += step.rows;
    left -= step.rest;
    if (left <= 0) {
      ++row;
      left += step.length;
    }
  }
};

}  // namespace retinanet_fast
