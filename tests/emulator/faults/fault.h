// A planted fault: the kernel is correct unless FAULT is defined. tests/test_kernels.py builds and runs both.
#pragma once

#include <cstdio>
#include <stdexcept>

#include "kernels/cuda/launch.cuh"

// A buffer that kernels may touch, as a tensor of the tests is.
template <class T>
struct Buffer {
  explicit Buffer(size_t n) : data(static_cast<T*>(emulator::allocate(n * sizeof(T)))) {}
  ~Buffer() { emulator::release(data); }
  T* data;
};

// Exit status: 0 if `run` returns true; 1, printing the report, for a fault that the emulator reports; 2 for a result
// that is silently wrong.
template <class Run>
int report(const Run& run) {
  try {
    return run() ? 0 : 2;
  } catch (const std::runtime_error& error) {
    puts(error.what());
    return 1;
  }
}
