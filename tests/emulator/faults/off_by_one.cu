#include "fault.h"

// Doubles n numbers; the last block is not full.
__global__ void double_kernel(float* values, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
#ifdef FAULT
  if (i > n) return;
#else
  if (i >= n) return;
#endif
  values[i] *= 2;
}

int main() {
  return report([] {
    const Buffer<float> values(100);
    for (int i = 0; i < 100; ++i) values.data[i] = 1;
    retinanet_fast::launch(double_kernel, dim3(4), dim3(32), 0, nullptr, values.data, 100);
    return values.data[0] == 2 && values.data[99] == 2;
  });
}
