#include "fault.h"

constexpr int kThreads = 64;

// What the launcher asks its caller for: one partial sum per block.
size_t workspace_bytes(int n) {
#ifdef FAULT
  return n / kThreads * sizeof(int);  // forgets the block that is not full
#else
  return (n + kThreads - 1) / kThreads * sizeof(int);
#endif
}

__global__ void partial_sums_kernel(const int* values, int n, int* partial) {
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const int count = __syncthreads_count(i < n && values[i] > 0);
  if (threadIdx.x == 0) partial[blockIdx.x] = count;
}

int main() {
  return report([] {
    const int n = 150;
    const Buffer<int> values(n), partial(workspace_bytes(n) / sizeof(int));
    for (int i = 0; i < n; ++i) values.data[i] = 1;
    retinanet_fast::launch(partial_sums_kernel, dim3(3), dim3(kThreads), 0, nullptr, values.data, n, partial.data);
    return partial.data[0] == 64 && partial.data[2] == 22;
  });
}
