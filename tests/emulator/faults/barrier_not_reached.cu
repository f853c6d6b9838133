#include "fault.h"

// Adds the number of positive values to each of n values; threads beyond n have nothing to store.
__global__ void early_return_kernel(int* values, int n) {
#ifdef FAULT
  if (int(threadIdx.x) >= n) return;
#endif
  const int count = __syncthreads_count(int(threadIdx.x) < n && values[threadIdx.x] > 0);
  if (int(threadIdx.x) < n) values[threadIdx.x] += count;
}

int main() {
  return report([] {
    const Buffer<int> values(50);
    for (int i = 0; i < 50; ++i) values.data[i] = 1;
    retinanet_fast::launch(early_return_kernel, dim3(1), dim3(64), 0, nullptr, values.data, 50);
    return values.data[0] == 51 && values.data[49] == 51;
  });
}
