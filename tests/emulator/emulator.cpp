// Fibers, the scheduler of a block's threads, and what they wait for.
#include "emulator.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <regex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "counts.h"
#include "cuda_runtime.h"
#include "state.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "the emulator switches stacks in x86-64 assembly"
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Saves the callee-saved registers on this stack and its pointer in *from, and continues where `to` was saved.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {

Position here;

// Kernels are hidden: their names are in the file's symbol table alone, which nm reads.
std::string name_of(const void* kernel) {
  Dl_info module{};
  dladdr(kernel, &module);
  const uint64_t offset = static_cast<const char*>(kernel) - static_cast<const char*>(module.dli_fbase);
  const std::string command = "env -u LD_PRELOAD nm -C --defined-only '" + std::string(module.dli_fname) + "'";
  std::string name = "?";
  FILE* symbols = popen(command.c_str(), "r");
  char line[4096];
  while (symbols && fgets(line, sizeof line, symbols)) {
    char* text;
    const uint64_t value = strtoull(line, &text, 16);
    if ((value == offset || value == reinterpret_cast<uint64_t>(kernel)) && (text[1] | 32) == 't') name = text + 3;
    if ((value == offset || value == reinterpret_cast<uint64_t>(kernel)) && (text[1] | 32) == 'w') name = text + 3;
  }
  if (symbols) pclose(symbols);
  static const std::regex noise("void |retinanet_fast::|\\w+_cu::|\\(anonymous namespace\\)::|math::|\n");
  name = std::regex_replace(name, noise, "");
  return name.substr(0, name.find('('));
}

namespace {

enum class State : uint8_t { kRunnable, kBarrier, kWarp, kReturned };

struct Thread {
  char* stack;
  void* saved;
  State state;
  const char* waits_for;
  unsigned mask;
  uint64_t value;
  Lanes lanes;
  int sum;
  uint32_t last_warp_sync, last_warp_mask;
};

struct Warp {
  uint32_t barriers;
};

std::mutex one_launch_at_a_time;
std::vector<Thread> threads;  // of the running block
std::vector<char*> stacks;    // one per thread, kept for the next blocks
std::vector<Warp> warps;
void* scheduler;  // its stack pointer, saved
Thread* current;
Launch launch_;
void (*body_)(const void*);
const void* context_;
std::string fault;
std::minstd_rand random_order;
cudaError_t last_error = cudaSuccess;
struct Launches {
  uint64_t count, threads;
};
std::map<const void*, Launches> launches;

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack;
size_t scheduler_stack_bytes;
void* fake_stack;
#endif

// ---- names ------------------------------------------------------------------------------------------------------

std::string position() {
  char text[160];
  snprintf(text, sizeof text, ", block (%u, %u, %u), thread (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z,
           threadIdx.x, threadIdx.y, threadIdx.z);
  return "kernel " + name_of(launch_.kernel) + text;
}

// A sanitizer's report ends in abort(): names the thread.
sighandler_t handle_abort_before;
void on_abort(int) {
  if (here.launch) fprintf(stderr, "emulator: in %s\n", position().c_str());
  signal(SIGABRT, handle_abort_before);
  raise(SIGABRT);
}

// ---- switching --------------------------------------------------------------------------------------------------

void to_scheduler() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  emulator_switch(&current->saved, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  body_(context_);
  current->state = State::kReturned;
  to_scheduler();
}

char* new_stack() {
  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(stack);
}

void prepare(Thread& thread) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(thread.stack, kStackBytes);
#endif
  // The stack as emulator_switch leaves one: six registers, the address at which to continue, and above it the return
  // address that a function expects at its entry, 8 bytes off a multiple of 16.
  void** top = reinterpret_cast<void**>(thread.stack + kStackBytes) - 1;
  top[0] = nullptr;
  top[-1] = reinterpret_cast<void*>(&thread_main);
  thread.saved = top - 7;
  thread.state = State::kRunnable;
  thread.last_warp_sync = thread.last_warp_mask = 0;
}

void set_thread(unsigned index) {
  const Size3 size = launch_.block;
  threadIdx = {index % size.x, index / size.x % size.y, index / size.x / size.y};
}

// Ends the launch, on the scheduler's stack.
[[noreturn]] void fail_at(unsigned index, const std::string& what) {
  set_thread(index);
  here.launch = 0;
  throw std::runtime_error(position() + ": " + what);
}

void resume(unsigned index) {
  current = &threads[index];
  set_thread(index);
  here.thread = index;
  here.stack = current->stack;
  here.warp_barriers = warps[index / 32].barriers;
  here.last_warp_sync = current->last_warp_sync;
  here.last_warp_mask = current->last_warp_mask;
#if defined(__SANITIZE_ADDRESS__)
  void* scheduler_fake_stack;
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, current->stack, kStackBytes);
#endif
  emulator_switch(&scheduler, current->saved);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
  if (!fault.empty()) fail_at(index, std::exchange(fault, {}));
}

// ---- resolving what threads wait for ----------------------------------------------------------------------------

std::string describe(unsigned index) {
  return "thread " + std::to_string(index) +
         (threads[index].state == State::kReturned   ? " has returned"
          : threads[index].state == State::kRunnable ? " runs"
                                                     : " waits at " + std::string(threads[index].waits_for));
}

// Lets the lanes that thread `first` waits for continue, if all of them wait too.
bool resolve_warp(unsigned first) {
  Thread& leader = threads[first];
  const unsigned base = first / 32 * 32;
  Lanes lanes{};
  for (unsigned lane = 0; lane < 32 && base + lane < threads.size(); ++lane) {
    const Thread& thread = threads[base + lane];
    if (!(leader.mask >> lane & 1) || thread.state == State::kReturned) continue;
    if (thread.state != State::kWarp) return false;
    if (thread.mask != leader.mask || thread.waits_for != leader.waits_for) return false;
    lanes.value[lane] = thread.value;
    lanes.present |= 1u << lane;
  }
  Warp& warp = warps[first / 32];
  const bool barrier = std::string(leader.waits_for) == "__syncwarp";  // shuffles and votes order no memory
  if (barrier) ++warp.barriers;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(lanes.present >> lane & 1)) continue;
    Thread& thread = threads[base + lane];
    thread.lanes = lanes;
    thread.state = State::kRunnable;
    count_warp_wide(base + lane);
    if (barrier) thread.last_warp_sync = warp.barriers, thread.last_warp_mask = lanes.present;
  }
  return true;
}

bool resolve_barrier() {
  int sum = 0;
  for (const Thread& thread : threads) {
    if (thread.state != State::kBarrier || thread.waits_for != threads[0].waits_for) return false;
    sum += int(thread.value);
  }
  for (Thread& thread : threads) thread.state = State::kRunnable, thread.sum = sum;
  count_barrier();
  ++here.barriers;
  return true;
}

void fail_stuck() {
  for (unsigned i = 0; i < threads.size(); ++i) {
    if (threads[i].state == State::kReturned) continue;
    const bool warp = threads[i].state == State::kWarp;
    const unsigned begin = warp ? i / 32 * 32 : 0;
    for (unsigned j = begin; j < threads.size() && (!warp || j < begin + 32); ++j) {
      if (warp && !(threads[i].mask >> (j - begin) & 1)) continue;
      const bool same = threads[j].state == threads[i].state && threads[j].waits_for == threads[i].waits_for &&
                        (!warp || threads[j].mask == threads[i].mask);
      if (same || (warp && threads[j].state == State::kReturned)) continue;
      char mask[32] = "";
      if (warp) snprintf(mask, sizeof mask, " with mask 0x%08x", threads[i].mask);
      fail_at(i,
              std::string("waits at ") + threads[i].waits_for + mask + ", which not all threads reach: " + describe(j));
    }
  }
  fail_at(0, "no thread can go on");
}

void run_block(unsigned block, std::vector<unsigned>& order) {
  const Size3 grid = launch_.grid;
  blockIdx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
  here.block = block;
  here.barriers = 0;
  here.block_used_atomics = false;
  for (size_t i = 0; i < threads.size(); ++i) {
    if (i == stacks.size()) stacks.push_back(new_stack());
    threads[i].stack = stacks[i];
    prepare(threads[i]);
  }
  std::fill(warps.begin(), warps.end(), Warp{});
  begin_block_memory(launch_.shared_bytes);

  for (unsigned returned = 0; returned < threads.size();) {
    std::shuffle(order.begin(), order.end(), random_order);
    for (unsigned index : order) {
      if (threads[index].state != State::kRunnable) continue;
      resume(index);
      returned += threads[index].state == State::kReturned;
    }
    bool progress = returned == threads.size();
    for (unsigned i = 0; i < threads.size(); ++i) {
      if (threads[i].state == State::kWarp)
        progress |= resolve_warp(i);
      else
        progress |= threads[i].state == State::kRunnable;
    }
    if (!progress && !resolve_barrier()) fail_stuck();
  }
  count_block_end(block);
}

}  // namespace

[[noreturn]] void fail(const std::string& what) {
  fault = what;
  to_scheduler();
  abort();
}

int lane() { return int(here.thread % 32); }

Lanes gather(const char* name, unsigned mask, uint64_t value) {
  if (!(mask >> lane() & 1)) {
    char text[100];
    snprintf(text, sizeof text, "%s with mask 0x%08x, which leaves out the calling lane %d", name, mask, lane());
    fail(text);
  }
  current->state = State::kWarp;
  current->waits_for = name;
  current->mask = mask;
  current->value = value;
  to_scheduler();
  return current->lanes;
}

uint64_t Lanes::read(const char* name, int lane) const {
  if (!(present >> lane & 1)) fail(std::string(name) + " reads lane " + std::to_string(lane) + ", which takes no part");
  return value[lane];
}

int sync_threads(const char* name, int value) {
  current->state = State::kBarrier;
  current->waits_for = name;
  current->value = uint64_t(value);
  to_scheduler();
  return current->sum;
}

void run_grid(const Launch& launch, void (*body)(const void*), const void* context) {
  const std::lock_guard lock(one_launch_at_a_time);
  static uint32_t count = 0;
  launch_ = launch, body_ = body, context_ = context;
  constexpr size_t kSharedLimit = 48 << 10;
  if (launch.grid.count() == 0 || launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535 ||
      launch.block.count() == 0 || launch.block.count() > kMaxThreads || launch.block.z > 64 ||
      launch.shared_bytes > kSharedLimit) {
    last_error = cudaErrorInvalidConfiguration;  // as CUDA refuses it
    return;
  }
  Launches& so_far = launches[launch.kernel];
  so_far = {so_far.count + 1, std::max(so_far.threads, launch.block.count())};
  if (count++ == 0) handle_abort_before = signal(SIGABRT, on_abort);
  gridDim = {launch.grid.x, launch.grid.y, launch.grid.z};
  blockDim = {launch.block.x, launch.block.y, launch.block.z};
  threads.resize(launch.block.count());
  warps.resize((threads.size() + 31) / 32);
  std::vector<unsigned> blocks(launch.grid.count()), order(threads.size());
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), random_order);
  count_launch(launch);
  here.launch = count;
  for (unsigned block : blocks) run_block(block, order);
  here.launch = 0;
  count_launch_end();
}

}  // namespace emulator

cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }

// The order of blocks and threads from here on.
extern "C" __attribute__((visibility("default"))) void emulator_seed(unsigned seed) {
  emulator::random_order.seed(seed);
}

// The kernels launched so far, one per line with the number of launches and the size of the largest block.
extern "C" __attribute__((visibility("default"))) const char* emulator_launched_kernels() {
  static std::string text;
  text.clear();
  for (const auto& [kernel, launches] : emulator::launches) {
    text += emulator::name_of(kernel) + '\t' + std::to_string(launches.count) + '\t' +
            std::to_string(launches.threads) + '\n';
  }
  return text.c_str();
}
