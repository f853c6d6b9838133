#include "fault.h"

// Adds up 32 numbers with shuffles.
__global__ void sum_kernel(const int* values, int* sum) {
#ifdef FAULT
  const unsigned mask = 0x7fffffffu;
#else
  const unsigned mask = 0xffffffffu;
#endif
  int total = values[threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) total += __shfl_down_sync(mask, total, offset);
  if (threadIdx.x == 0) *sum = total;
}

int main() {
  return report([] {
    const Buffer<int> values(32), sum(1);
    for (int i = 0; i < 32; ++i) values.data[i] = i;
    retinanet_fast::launch(sum_kernel, dim3(1), dim3(32), 0, nullptr, values.data, sum.data);
    return *sum.data == 496;
  });
}
