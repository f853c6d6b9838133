// Rows of a given length, one after the other, and a thread that goes over their elements in steps of one size: which
// row it is in, and how much of it is left, without a division for each step.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace retinanet_fast {

// Lengths are cut off here, far above what a block goes over, so that 32 bits do.
constexpr int64_t kLongRow = int64_t(1) << 30;

// Made by the host.
struct RowStep {
  int32_t length;  // of a row
  int32_t rows;    // that a step passes
  int32_t rest;    // elements that it goes on after them

  RowStep(int64_t row_length, int32_t step)
      : length(int32_t(row_length < kLongRow ? row_length : kLongRow)),
        rows(int32_t(step / row_length)),
        rest(int32_t(step % row_length)) {}
};

struct RowCursor {
  int64_t first = 0;  // row of the element that it began with
  int32_t row = 0;    // counted from that one
  int32_t left = 0;   // elements of the row from here on

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
