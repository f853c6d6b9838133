// What the scheduler (emulator.cpp) tells the memory checks (memory.cpp).
#pragma once

#include "emulator.h"

namespace emulator {

constexpr unsigned kMaxThreads = 1024;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

// How far the running thread has come: enough to tell which accesses are ordered by barriers.
struct Position {
  uint32_t launch;          // counts launches; 0 while no thread runs
  uint32_t block;           // linear
  uint32_t thread;          // linear, in its block
  uint32_t barriers;        // __syncthreads passed by the block
  uint32_t warp_barriers;   // __syncwarp passed by the warp
  uint32_t last_warp_sync;  // value of warp_barriers after the thread's last __syncwarp ...
  uint32_t last_warp_mask;  // ... and the lanes that took part in it
  bool block_used_atomics;  // if so, they may order it after other blocks
  const char* stack;        // the thread's own, of kStackBytes
};
extern Position here;

// A kernel's name with its template arguments.
std::string name_of(const void* kernel);

// A new block: its shared memory is poisoned and has no variables yet.
void begin_block_memory(size_t dynamic_bytes);

}  // namespace emulator
