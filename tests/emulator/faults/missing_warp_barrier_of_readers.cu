#include "fault.h"

// In each step one lane of a warp writes what all its lanes then read.
__global__ void take_turns_kernel(int* values) {
  __shared__ int passed_on[2];
  int& number = passed_on[threadIdx.x / 32];
  int sum = 0;
  for (unsigned step = 0; step < 3; ++step) {
    if (threadIdx.x % 32 == step) number = int(step) + 1;
    __syncwarp();
    sum += number;
#ifndef FAULT
    __syncwarp();
#endif
  }
  values[threadIdx.x] = sum;
}

int main() {
  return report([] {
    const Buffer<int> values(64);
    retinanet_fast::launch(take_turns_kernel, dim3(1), dim3(64), 0, nullptr, values.data);
    return values.data[0] == 6 && values.data[63] == 6;
  });
}
