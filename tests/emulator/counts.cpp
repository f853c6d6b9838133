// Counts what kernels do, in the place of memory.cpp, which checks it: the coalescing of accesses, bank conflicts,
// atomics, instructions, and the longest chain of steps that must follow one another.
//
// The kernels are compiled with a call before each access (-fsanitize=thread) and one in each basic block
// (-fsanitize-coverage=trace-pc). Lanes of a warp run one after the other here; what they do together is found again by
// counting: the n-th time that a basic block runs in one lane since the last barrier belongs to the n-th time in every
// other. So a warp runs a basic block as often as that lane which does so most often, and accesses of the n-th time
// from one place in the code are one access of the warp.
//
// A chain: between two barriers a block takes as long as its slowest warp. A warp's accesses in one run of a basic
// block wait for memory together, one after the other's; instructions, waits for memory and warp-wide operations add
// up.
#include "counts.h"

#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>
#include <vector>

#include "counts_state.h"

namespace emulator {

uint32_t launch_number = 0, block_number = 0;
std::vector<Counted> counted;
Totals totals;

namespace {

Chain chain;  // of the running block
bool block_writes;
std::unordered_map<const char*, uint64_t> queues;  // atomics of the launch, by address
std::unordered_map<const char*, uint64_t> spins;   // since the last barrier: atomics of 64 bits in shared memory
uint64_t longest_spin;

// The accesses of a warp from one place: sectors of global memory.
From count_global(const Event* const* events, size_t lanes) {
  uintptr_t sectors[128];
  size_t count = 0;
  From from = From::kNowhere;
  const bool is_streamed = in_streamed_buffer(events[0]->address);
  for (size_t i = 0; i < lanes; ++i) {
    const Event& event = *events[i];
    totals.useful_bytes += event.bytes;
    if (is_streamed) totals.streamed_bytes += event.bytes;
    if (is_streamed && event.bytes < 16) totals.narrow_bytes += event.bytes;
    const auto at = reinterpret_cast<uintptr_t>(event.address);
    for (uintptr_t s = at / kSector; s <= (at + event.bytes - 1) / kSector && count < 128; ++s) sectors[count++] = s;
    if (event.kind == kAtomic) {
      ++totals.atomics;
      totals.longest_queue = std::max(totals.longest_queue, ++queues[event.address]);
    }
    block_writes |= event.kind != kRead;
    from = std::max(from, touch(event.address, event.bytes));
  }
  std::sort(sectors, sectors + count);
  totals.sectors += size_t(std::unique(sectors, sectors + count) - sectors);
  return from;
}

// The accesses of a warp from one place: 32 banks of 4 bytes; wide ones go in parts of the warp. There are no atomics
// of 64 bits in shared memory: each thread tries again until it was the only one.
void count_shared(const Event* const* events, size_t lanes) {
  for (size_t i = 0; i < lanes && events[i]->kind == kAtomic && events[i]->bytes == 8; ++i) {
    longest_spin = std::max(longest_spin, ++spins[events[i]->address]);
  }
  const size_t at_once = std::max<size_t>(1, 128 / std::max<size_t>(4, events[0]->bytes));
  for (size_t first = 0; first < lanes; first += at_once) {
    std::array<uintptr_t, 128> words;
    size_t count = 0;
    for (size_t i = first; i < std::min(lanes, first + at_once); ++i) {
      const auto at = reinterpret_cast<uintptr_t>(events[i]->address);
      for (uintptr_t w = at / 4; w <= (at + events[i]->bytes - 1) / 4 && count < words.size(); ++w) words[count++] = w;
    }
    std::sort(words.begin(), words.begin() + count);
    count = size_t(std::unique(words.begin(), words.begin() + count) - words.begin());
    std::array<unsigned, 32> banks{};
    for (size_t i = 0; i < count; ++i) ++banks[words[i] % 32];
    totals.bank_conflicts += *std::max_element(banks.begin(), banks.end()) - 1;
    ++totals.shared_accesses;
  }
}

// What one warp has done since the last barrier.
Chain close_warp(ThreadLog* lanes, size_t count) {
  Chain warp{};
  for (size_t b = 0; b < basic_blocks.size(); ++b) {
    uint32_t most = 0;
    for (size_t i = 0; i < count; ++i) {
      if (b >= lanes[i].times.size()) continue;
      most = std::max(most, lanes[i].times[b]);
      totals.divisions64 += basic_blocks[b].divisions64 * lanes[i].times[b];
      lanes[i].times[b] = 0;
    }
    warp.instructions += most * basic_blocks[b].instructions;
  }
  totals.instructions += warp.instructions;

  static std::vector<const Event*> events;
  events.clear();
  for (size_t i = 0; i < count; ++i) {
    for (const Event& event : lanes[i].events) events.push_back(&event);
    warp.warp_wide = std::max(warp.warp_wide, double(lanes[i].warp_wide));
    lanes[i].warp_wide = 0;
  }
  std::stable_sort(events.begin(), events.end(), [](const Event* a, const Event* b) {
    if (a->times != b->times) return a->times < b->times;
    if (a->basic_block != b->basic_block) return a->basic_block < b->basic_block;
    return a->pc < b->pc;
  });
  for (size_t begin = 0; begin < events.size();) {
    const Event& first = *events[begin];
    From from = From::kNowhere;
    bool shared = false, atomic = false;
    size_t at = begin;
    while (at < events.size() && events[at]->times == first.times && events[at]->basic_block == first.basic_block) {
      size_t end = at;
      while (end < events.size() && events[end]->times == first.times &&
             events[end]->basic_block == first.basic_block && events[end]->pc == events[at]->pc)
        ++end;
      // More than one access of a lane from one place: a function's, called from several places of the basic block.
      for (size_t part = at; part < end; part += 32) {
        const size_t here = std::min<size_t>(32, end - part);
        const bool is_shared = in_shared(events[part]->address);
        atomic |= events[part]->kind == kAtomic;
        if (is_shared) {
          count_shared(&events[part], here);
          shared |= events[part]->kind != kWrite;
        } else {
          const From one = count_global(&events[part], here);
          if (events[part]->kind != kWrite) from = std::max(from, one);
        }
      }
      at = end;
    }
    warp.l1 += from == From::kL1;
    warp.l2 += from == From::kL2;
    warp.dram += from == From::kDram;
    warp.shared += shared;
    warp.atomic += atomic;
    begin = at;
  }
  for (size_t i = 0; i < count; ++i) lanes[i].events.clear();
  warp.cycles = warp.instructions * costs.instruction + warp.l1 * costs.l1 + warp.l2 * costs.l2 +
                warp.dram * costs.dram + warp.shared * costs.shared + warp.atomic * costs.atomic +
                warp.warp_wide * costs.warp_wide;
  return warp;
}

// A block's warps share a multiprocessor: its four schedulers, of an instruction a cycle each, its shared memory, of an
// access a cycle, and its way to the L2 cache. A warp's own waits come on top.
void close_interval() {
  Chain slowest{};
  const size_t threads = counted.back().launch.block.count();
  const Totals before = totals;
  spins.clear();
  longest_spin = 0;
  for (size_t first = 0; first < threads; first += 32) {
    const Chain warp = close_warp(&logs[first], std::min<size_t>(32, threads - first));
    if (warp.cycles > slowest.cycles) slowest = warp;
  }
  const double of_all =
      std::max({(totals.instructions - before.instructions) / 4,
                double(totals.shared_accesses + totals.bank_conflicts - before.shared_accesses - before.bank_conflicts),
                double(totals.sectors - before.sectors) / costs.sectors_per_cycle});
  const double waits = std::max(0.0, of_all - slowest.instructions * costs.instruction);
  chain.cycles += slowest.cycles + waits + double(longest_spin) * costs.spin;
  chain.waits_for_others += waits;
  chain.instructions += slowest.instructions;
  chain.l1 += slowest.l1;
  chain.l2 += slowest.l2;
  chain.dram += slowest.dram;
  chain.shared += slowest.shared;
  chain.atomic += slowest.atomic;
  chain.warp_wide += slowest.warp_wide;
}

}  // namespace

void count_launch(const Launch& launch) {
  if (!counting) return;
  ++launch_number;
  basic_blocks.clear();
  totals = {};
  queues.clear();
  counted.push_back({});
  counted.back().launch = launch;
  counted.back().cycles.resize(launch.grid.count());
  counted.back().idle.resize(launch.grid.count());
  logs.resize(std::max(logs.size(), size_t(launch.block.count())));
}

void count_warp_wide(unsigned thread) {
  if (counting) ++logs[thread].warp_wide;
}

void count_barrier() {
  if (!counting) return;
  close_interval();
  chain.cycles += costs.barrier;
  chain.barriers += 1;
}

void count_block_end(unsigned block) {
  if (!counting) return;
  close_interval();
  Counted& now = counted.back();
  now.cycles[block] = float(chain.cycles);
  const bool idle = !block_writes && chain.l1 + chain.l2 + chain.dram <= 1;
  now.idle[block] = idle;
  totals.idle_blocks += idle;
  totals.chain_cycles += chain.cycles;
  totals.issue_cycles += chain.instructions * costs.instruction + chain.waits_for_others;
  if (chain.cycles > now.longest.cycles) now.longest = chain;
  chain = {};
  block_writes = false;
}

void count_launch_end() {
  if (counting) counted.back().totals = totals;
}

}  // namespace emulator
