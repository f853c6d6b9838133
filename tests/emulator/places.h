// Where this module keeps a block's shared memory, and what is not a kernel's memory at all.
#pragma once

#include <cstddef>

namespace emulator {

struct Span {
  char* begin;
  size_t bytes;
  bool contains(const char* address) const { return address >= begin && address < begin + bytes; }
};

// Static shared variables are this module's thread-local ones: one block runs at a time, and its fibers are one thread
// for the operating system. This is the running thread's copy.
Span static_shared_span();

// Dynamic shared memory is this array.
extern char dynamic_shared_space[256 << 10];

// The module itself, which holds constants, threadIdx and the like.
bool in_module(const char* address);
size_t module_offset(const char* address);
size_t module_bytes();

}  // namespace emulator
