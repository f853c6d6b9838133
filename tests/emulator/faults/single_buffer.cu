#include "fault.h"

// Passes until all are settled: a thread is kept once the thread before it, which hits it, is removed.
__global__ void passes_kernel(int* is_kept) {
  __shared__ int settled[2][64];  // 0 not yet, 1 kept, 2 removed; in this pass and in the next
  const int thread = threadIdx.x;
  settled[0][thread] = thread == 0;
  __syncthreads();
  int pass = 0;
  int waits = true;
  while (waits) {
    const int before = thread == 0 ? 2 : settled[pass][thread - 1];
#ifdef FAULT
    settled[pass][thread] = before == 0 ? 0 : 3 - before;
#else
    settled[pass ^ 1][thread] = before == 0 ? 0 : 3 - before;
    pass ^= 1;
#endif
    waits = __syncthreads_or(before == 0);
  }
  is_kept[thread] = settled[pass][thread] == 1;
}

int main() {
  return report([] {
    const Buffer<int> is_kept(64);
    retinanet_fast::launch(passes_kernel, dim3(1), dim3(64), 0, nullptr, is_kept.data);
    return is_kept.data[0] == 1 && is_kept.data[1] == 0 && is_kept.data[62] == 1 && is_kept.data[63] == 0;
  });
}
