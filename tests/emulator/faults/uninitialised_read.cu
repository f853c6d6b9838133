#include "fault.h"

// Counts, in shared memory, how often each of 8 digits occurs.
__global__ void histogram_kernel(const int* digits, int* counts) {
  __shared__ int histogram[8];
#ifndef FAULT
  if (threadIdx.x < 8) histogram[threadIdx.x] = 0;
  __syncthreads();
#endif
  atomicAdd(&histogram[digits[threadIdx.x]], 1);
  __syncthreads();
  if (threadIdx.x < 8) counts[threadIdx.x] = histogram[threadIdx.x];
}

int main() {
  return report([] {
    const Buffer<int> digits(64), counts(8);
    for (int i = 0; i < 64; ++i) digits.data[i] = i % 8;
    retinanet_fast::launch(histogram_kernel, dim3(1), dim3(64), 0, nullptr, digits.data, counts.data);
    return counts.data[0] == 8 && counts.data[7] == 8;
  });
}
