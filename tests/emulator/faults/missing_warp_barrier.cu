#include "fault.h"

// Each warp rotates its own 32 numbers, in two steps, in each of which a lane reads one number and writes another.
__global__ void rotate_kernel(int* values) {
  int* mine = values + threadIdx.x / 32 * 32;
  const int lane = int(threadIdx.x % 32);
  for (int step = 0; step < 2; ++step) {
    const int from = (lane + 1) % 32;
    const int value = mine[from];
    __syncwarp();
    mine[lane] = value;
#ifndef FAULT
    __syncwarp();
#endif
  }
}

int main() {
  return report([] {
    const Buffer<int> values(64);
    for (int i = 0; i < 64; ++i) values.data[i] = i;
    retinanet_fast::launch(rotate_kernel, dim3(1), dim3(64), 0, nullptr, values.data);
    return values.data[0] == 2 && values.data[32] == 34;
  });
}
