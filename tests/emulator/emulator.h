// A CUDA execution environment on one host thread. A block's threads are fibers that run until they wait (for a
// barrier, a shuffle, a vote) or return; whenever none can run, what they wait for is resolved. The order of blocks and
// threads is shuffled by a seed. Kernels are compiled with the host compiler's thread-sanitizer instrumentation, but
// linked with our own hooks (memory.cpp), which check every access; or with two sanitizers, for addresses and undefined
// behaviour.
//
// A fault ends the launch with a std::runtime_error that names kernel, block and thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

struct Size3 {
  unsigned x, y, z;
  uint64_t count() const { return uint64_t(x) * y * z; }
};

struct Launch {
  const void* kernel;
  Size3 grid;
  Size3 block;
  size_t shared_bytes;
};

// Runs body(context) once for each thread of the grid.
void run_grid(const Launch& launch, void (*body)(const void*), const void* context);

// Ends the running launch with the error "kernel K, block (x, y, z), thread (x, y, z): " + what.
[[noreturn]] void fail(const std::string& what);

// ---- what the threads of a block do together --------------------------------------------------------------------

// Waits for every thread of the block; returns the sum of their values.
int sync_threads(const char* name, int value);

// The values of the lanes that took part in a warp-wide operation.
struct Lanes {
  uint64_t value[32];
  unsigned present;
  uint64_t read(const char* name, int lane) const;  // fails for a lane that did not take part
};

// Waits for the lanes of `mask` that have not returned.
Lanes gather(const char* name, unsigned mask, uint64_t value);
int lane();

// ---- memory -----------------------------------------------------------------------------------------------------

enum Access : uint8_t { kRead, kWrite, kAtomic };

// Called for every access of a kernel.
void access(const void* address, size_t bytes, Access kind);

// Buffers that kernels may touch; they start filled with a pattern that no kernel should read.
void* allocate(size_t bytes);
void release(void* buffer);

void* dynamic_shared_bytes();

}  // namespace emulator
