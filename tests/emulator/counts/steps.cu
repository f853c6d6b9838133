// Kernels of which one can say beforehand what they do; tests/test_kernel_report.py compares that with what counts.cpp
// counts. Prints the counts as JSON.
#include <cstdio>

#include "kernels/cuda/launch.cuh"

extern "C" void emulator_count(size_t basic_blocks, const uint64_t* offsets, const double* instructions,
                               const double* divisions64, const double* cycles);
extern "C" const char* emulator_counts();

namespace {

template <class T>
T* buffer(size_t n) {
  T* data = static_cast<T*>(emulator::allocate(n * sizeof(T)));
  for (size_t i = 0; i < n; ++i) data[i] = T{};
  return data;
}

__global__ void wide_copy_kernel(const uint4* from, uint4* to) {
  const int i = blockIdx.x * 64 + threadIdx.x;
  to[i] = from[i];
}

__global__ void narrow_copy_kernel(const unsigned short* from, unsigned short* to) {
  const int i = blockIdx.x * 64 + threadIdx.x;
  to[i] = from[i];
}

__global__ void strided_read_kernel(const float* from, float* to) {
  const float value = from[threadIdx.x * 16];  // 64 bytes apart
  if (value > 0) to[0] = value;
}

__global__ void bank_kernel(float* to) {
  __shared__ float rows[32 * 32];
  rows[threadIdx.x * 32] = 1.0f;  // all in one bank
  rows[threadIdx.x * 32 + 1] = 1.0f;
  __syncthreads();
  to[threadIdx.x] = rows[threadIdx.x] + rows[0];
}

__global__ void queue_kernel(int* counters) { atomicAdd(&counters[threadIdx.x / 48], 1); }

__global__ void spin_kernel(unsigned long long* to) {
  __shared__ unsigned long long word;
  if (threadIdx.x == 0) word = 0;
  __syncthreads();
  atomicOr(&word, 1ull << threadIdx.x % 64);
  __syncthreads();
  if (threadIdx.x == 0) to[0] = word;
}

__global__ void chase_kernel(const int* next, int* to) {
  if (threadIdx.x != 5) return;
  int at = 0;
  for (int i = 0; i < 10; ++i) at = next[at];
  to[0] = at;
}

__global__ void idle_kernel(const int* from, int* to) {
  if (from[blockIdx.x] == 0) return;
  to[blockIdx.x] = 1;
}

__global__ void tree_kernel(int* to) {
  __shared__ int sums[2];
  int sum = threadIdx.x;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) to[0] = sums[0] + sums[1];
}

template <class... Parameters, class... Args>
void run(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, Args... args) {
  retinanet_fast::launch(kernel, dim3(blocks), dim3(threads), 0, nullptr, args...);
}

}  // namespace

int main() {
  // Instructions are not known here; what is left of a cycle's parts has costs that tell them apart.
  const double cycles[] = {0, 1, 100, 10'000, 0, 0, 3, 0, 1'000'000, 1e9};
  emulator_count(0, nullptr, nullptr, nullptr, cycles);
  constexpr size_t kLarge = 1 << 18;  // uint4: 4 MiB, which is a streamed buffer
  const auto from = buffer<uint4>(kLarge), to = buffer<uint4>(kLarge);
  run(wide_copy_kernel, 4, 64, from, to);
  run(narrow_copy_kernel, 4, 64, reinterpret_cast<const unsigned short*>(from), reinterpret_cast<unsigned short*>(to));
  const auto numbers = buffer<float>(64 * 16), result = buffer<float>(64);
  run(strided_read_kernel, 1, 64, numbers, result);
  run(bank_kernel, 1, 32, result);
  const auto counters = buffer<int>(2);
  run(queue_kernel, 3, 64, counters);
  const auto words = buffer<unsigned long long>(1);
  run(spin_kernel, 1, 128, words);
  const auto next = buffer<int>(1024);
  for (int i = 0; i < 1024; ++i) next[i] = (i + 100) % 1024;
  run(chase_kernel, 1, 64, next, counters);
  const auto flags = buffer<int>(8);
  flags[3] = 1;
  run(idle_kernel, 8, 32, flags, next);
  run(tree_kernel, 1, 64, counters);
  puts(emulator_counts());
}
