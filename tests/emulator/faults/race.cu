#include "fault.h"

// Moves 64 numbers down by one, in place.
__global__ void shift_kernel(int* values) {
  const int next = values[(threadIdx.x + 1) % 64];
#ifndef FAULT
  __syncthreads();
#endif
  values[threadIdx.x] = next;
}

int main() {
  return report([] {
    const Buffer<int> values(64);
    for (int i = 0; i < 64; ++i) values.data[i] = i;
    retinanet_fast::launch(shift_kernel, dim3(1), dim3(64), 0, nullptr, values.data);
    return values.data[0] == 1 && values.data[63] == 0;
  });
}
