#include "fault.h"

// Counts, in shared memory, how often each of 8 digits occurs; a block has 64 of them.
__global__ void histogram_kernel(const int* digits, int* counts) {
  __shared__ int histogram[8];
#ifndef FAULT
  if (threadIdx.x < 8) histogram[threadIdx.x] = 0;
  __syncthreads();
#endif
  atomicAdd(&histogram[digits[blockIdx.x * 64 + threadIdx.x]], 1);
  __syncthreads();
  if (threadIdx.x < 8) counts[blockIdx.x * 8 + threadIdx.x] = histogram[threadIdx.x];
}

int main() {
  return report([] {
    const Buffer<int> digits(192), counts(24);
    for (int i = 0; i < 192; ++i) digits.data[i] = i % 8;
    retinanet_fast::launch(histogram_kernel, dim3(3), dim3(64), 0, nullptr, digits.data, counts.data);
    return counts.data[0] == 8 && counts.data[23] == 8;
  });
}
