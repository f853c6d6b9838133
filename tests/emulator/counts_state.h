// What the parts of the counting share: counts_hooks.cpp logs what threads do, counts.cpp makes a warp's, a block's and
// a launch's totals of it, with counts_memory.cpp, and counts_json.cpp tells them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator.h"

namespace emulator {

extern bool counting;
extern uint32_t launch_number, block_number;

// Cycles of one step of a chain; from the caller.
struct Costs {
  double instruction, l1, l2, dram, shared, atomic, warp_wide, barrier, spin, sectors_per_cycle;
};
extern Costs costs;

// The basic blocks that the running launch has come to.
struct BasicBlock {
  double instructions, divisions64;
};
extern std::vector<BasicBlock> basic_blocks;

// ---- what threads have done since the last barrier --------------------------------------------------------------

struct Event {
  uint32_t basic_block, times;  // of it in this lane, this run of it included
  const void* pc;
  const char* address;
  uint8_t bytes;
  Access kind;
};

struct ThreadLog {
  std::vector<Event> events;
  std::vector<uint32_t> times;  // by basic block
  uint32_t basic_block, warp_wide;
};
extern std::vector<ThreadLog> logs;  // of the running block

// ---- totals of a launch -----------------------------------------------------------------------------------------

struct Chain {
  double cycles, instructions, l1, l2, dram, shared, atomic, warp_wide, barriers;
  double waits_for_others;  // cycles, for the block's other warps
};

struct Totals {
  uint64_t useful_bytes, sectors, unique_sectors, block_sectors;  // global memory
  uint64_t streamed_bytes, narrow_bytes;                          // of streamed buffers; less than 16 bytes at a time
  uint64_t shared_accesses, bank_conflicts;                       // of warps
  uint64_t atomics, longest_queue;                                // of threads, in global memory
  double instructions, divisions64;                               // of warps; of threads
  uint64_t idle_blocks;                                           // that write nothing
  double chain_cycles, issue_cycles;                              // of all blocks' chains; instructions among them
};

struct Counted {
  Launch launch;
  Totals totals;
  Chain longest;
  std::vector<float> cycles;  // by block
  std::vector<bool> idle;
};
extern std::vector<Counted> counted;
extern Totals totals;  // of the running launch

// ---- memory: counts_memory.cpp ------------------------------------------------------------------------------------

constexpr size_t kSector = 32;

bool in_shared(const char* address);
bool in_streamed_buffer(const char* address);  // one so large that a call streams it: logits, gradients

// Where data comes from: what the block has touched before, what the launch has, or neither.
enum class From : uint8_t { kNowhere, kL1, kL2, kDram };
From touch(const char* address, size_t bytes);

}  // namespace emulator
