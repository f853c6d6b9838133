// What the compiler calls: before each access (-fsanitize=thread), and in each basic block
// (-fsanitize-coverage=trace-pc).
#include <algorithm>

#include "counts_state.h"
#include "places.h"
#include "state.h"

namespace emulator {

bool counting = false;
Costs costs{};
std::vector<BasicBlock> basic_blocks;
std::vector<ThreadLog> logs;

namespace {

// By the address at which a basic block's call returns, relative to the module: from the caller, who reads machine
// code.
struct Code {
  uint64_t offset;
  double instructions, divisions64;
};
std::vector<Code> code;  // ordered by offset

// Where to find a basic block by the offset in the module.
struct Slot {
  uint32_t launch, basic_block;
};
std::vector<Slot> slots;

uint32_t basic_block_at(const void* pc) {
  const uint64_t offset = module_offset(static_cast<const char*>(pc));
  Slot& slot = slots[offset];
  if (slot.launch == launch_number) return slot.basic_block;
  slot = {launch_number, uint32_t(basic_blocks.size())};
  const auto at = std::lower_bound(code.begin(), code.end(), offset,
                                   [](const Code& one, uint64_t value) { return one.offset < value; });
  const bool known = at != code.end() && at->offset == offset;
  basic_blocks.push_back(known ? BasicBlock{at->instructions, at->divisions64} : BasicBlock{0, 0});
  return slot.basic_block;
}

// Whether an access begins where the last one ends, in the same 16 aligned bytes: the compiler may split one of these.
bool goes_on(const Event& last, const Event& next) {
  return last.times == next.times && last.basic_block == next.basic_block && last.kind == next.kind &&
         next.kind != kAtomic && next.address == last.address + last.bytes &&
         reinterpret_cast<uintptr_t>(last.address) % 16 == 0 && last.bytes + next.bytes <= 16;
}

void hooked(const void* pc, const void* address, size_t bytes, Access kind, bool) {
  if (!counting) return;
  const char* at = static_cast<const char*>(address);
  if (!here.launch || (at >= here.stack && at < here.stack + kStackBytes)) return;
  if (!in_shared(at) && in_module(at)) return;
  ThreadLog& log = logs[here.thread];
  const uint32_t times = log.basic_block < log.times.size() ? log.times[log.basic_block] : 0;
  const Event event{log.basic_block, times, pc, at, uint8_t(bytes), kind};
  if (!log.events.empty() && !in_shared(at) && goes_on(log.events.back(), event)) {
    log.events.back().bytes += event.bytes;
  } else {
    log.events.push_back(event);
  }
}
}  // namespace

void access(const void* address, size_t bytes, Access kind) {
  hooked(__builtin_return_address(0), address, bytes, kind, false);
}

}  // namespace emulator

#include "access_hooks.h"

extern "C" void __sanitizer_cov_trace_pc() {
  if (!emulator::counting || !emulator::here.launch) return;
  emulator::ThreadLog& log = emulator::logs[emulator::here.thread];
  log.basic_block = emulator::basic_block_at(__builtin_return_address(0));
  if (log.basic_block >= log.times.size()) log.times.resize(log.basic_block + 64);
  ++log.times[log.basic_block];
}

// From here on every launch is counted. `offsets`, `instructions` and `divisions64`: see Code; `cycles`: see Costs.
extern "C" __attribute__((visibility("default"))) void emulator_count(size_t basic_blocks, const uint64_t* offsets,
                                                                      const double* instructions,
                                                                      const double* divisions64, const double* cycles) {
  using namespace emulator;
  code.resize(basic_blocks);
  for (size_t i = 0; i < basic_blocks; ++i) code[i] = {offsets[i], instructions[i], divisions64[i]};
  costs = {cycles[0], cycles[1], cycles[2], cycles[3], cycles[4],
           cycles[5], cycles[6], cycles[7], cycles[8], cycles[9]};
  slots.resize(module_bytes());
  counted.clear();
  counting = true;
}
