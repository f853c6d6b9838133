#include "fault.h"

// Reverses 64 numbers through shared memory.
__global__ void reverse_kernel(int* values) {
  __shared__ int copy[64];
  copy[threadIdx.x] = values[threadIdx.x];
#ifndef FAULT
  __syncthreads();
#endif
  values[threadIdx.x] = copy[63 - threadIdx.x];
}

int main() {
  return report([] {
    const Buffer<int> values(64);
    for (int i = 0; i < 64; ++i) values.data[i] = i;
    retinanet_fast::launch(reverse_kernel, dim3(1), dim3(64), 0, nullptr, values.data);
    return values.data[0] == 63 && values.data[63] == 0;
  });
}
