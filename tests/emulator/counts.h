// What a block did, for the cost model of benchmarks/kernel_report: told by the scheduler (emulator.cpp), counted by
// counts.cpp. The variants that check memory link no counting, and these calls are empty there.
#pragma once

#include "emulator.h"

namespace emulator {

#if defined(EMULATOR_COUNTS)
void count_launch(const Launch& launch);
void count_warp_wide(unsigned thread);  // a shuffle, vote or reduction that this thread has taken part in
void count_barrier();                   // the whole block has come to one
void count_block_end(unsigned block);
void count_launch_end();
#else
inline void count_launch(const Launch&) {}
inline void count_warp_wide(unsigned) {}
inline void count_barrier() {}
inline void count_block_end(unsigned) {}
inline void count_launch_end() {}
#endif

}  // namespace emulator
