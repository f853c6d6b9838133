// The memory that kernels may touch, and the check of every access: inside a buffer, aligned, of something that was
// written, and not racing with another thread.
//
// The sanitized variant (CMakeLists.txt) leaves these checks to the address sanitizer and needs the buffers alone.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "places.h"
#include "state.h"

namespace emulator {
namespace {

// Buffers and shared memory start filled with this byte: as a float -1.0e34, as an index far outside.
constexpr unsigned char kPoison = 0xf7;
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // it watches each access, and puts red zones around each allocation
#else
constexpr bool kSanitized = false;
#endif
constexpr size_t kRedZone = kSanitized ? 0 : 256;
constexpr size_t kAlignment = 256;  // as cudaMalloc and torch's allocator give
constexpr size_t kNear = 1 << 20;   // an access this far from a buffer is still reported as past or before it

// ---- races ------------------------------------------------------------------------------------------------------

constexpr uint32_t kSeveral = ~0u;  // threads of more than one warp

// An earlier access to some bytes of a word, or the reads of several lanes that nothing orders. Two accesses of
// different threads race if one of them writes and no barrier orders them.
struct Earlier {
  uint32_t launch, block, thread, barriers, warp_barriers;
  uint32_t lanes;  // of the thread's warp
  uint8_t bytes;
  bool atomic;
};

struct Word {
  Earlier write, read;
};

bool by_this_warp(const Earlier& earlier) {
  return earlier.thread != kSeveral && earlier.thread / 32 == here.thread / 32;
}

// Whether a __syncwarp in which all these threads took part orders the earlier access before this one.
bool ordered_in_warp(const Earlier& earlier) {
  return by_this_warp(earlier) && earlier.warp_barriers < here.last_warp_sync &&
         (earlier.lanes & ~here.last_warp_mask) == 0;
}

// Whether something orders the earlier access before this one. (Shared memory is new in each block, but its record may
// still be that of an earlier block.)
bool ordered(const Earlier& earlier, uint8_t bytes, Access kind, bool in_shared) {
  if (earlier.launch != here.launch || !(earlier.bytes & bytes)) return true;
  if (earlier.atomic && kind == kAtomic) return true;
  // Blocks are ordered by nothing but atomics, such as the counter that tells a block that it is the last one.
  if (earlier.block != here.block) return here.block_used_atomics || in_shared;
  if (earlier.barriers != here.barriers) return true;
  const bool by_this_thread = by_this_warp(earlier) && earlier.lanes == 1u << here.thread % 32;
  return by_this_thread || ordered_in_warp(earlier);
}

void fail_race(const char* verb, const char* earlier_verb, const Earlier& earlier) {
  const bool several = earlier.thread == kSeveral || (earlier.lanes & (earlier.lanes - 1)) != 0;
  const std::string who = several ? "several threads" : "thread " + std::to_string(earlier.thread);
  fail(std::string(verb) + " what " + who + " of block " + std::to_string(earlier.block) + " " + earlier_verb +
       " with no barrier between");
}

void check_word(Word& word, uint8_t bytes, Access kind, bool in_shared) {
  const char* verb = kind == kRead ? "reads" : "writes";
  if (!ordered(word.write, bytes, kind, in_shared)) fail_race(verb, "wrote", word.write);
  if (kind != kRead && !ordered(word.read, bytes, kind, in_shared)) fail_race(verb, "read", word.read);
  Earlier& earlier = kind == kRead ? word.read : word.write;
  const bool shared_read = kind == kRead && earlier.launch == here.launch && earlier.block == here.block &&
                           earlier.barriers == here.barriers &&
                           !ordered_in_warp(earlier);  // else what is ordered after this read is so after that one too
  const uint32_t thread = shared_read && !by_this_warp(earlier) ? kSeveral : here.thread;
  const uint32_t lanes = 1u << here.thread % 32 | (shared_read ? earlier.lanes : 0);
  earlier = {here.launch, here.block, thread, here.barriers, here.warp_barriers, lanes, bytes, kind == kAtomic};
}

// `offset` counts bytes of the memory whose accesses `words` records.
void check_race(std::vector<Word>& words, size_t offset, size_t bytes, Access kind, bool in_shared) {
  for (size_t at = offset; at < offset + bytes;) {
    const size_t end = std::min(offset + bytes, (at / 4 + 1) * 4);
    check_word(words[at / 4], uint8_t(((1u << (end - at)) - 1) << at % 4), kind, in_shared);
    at = end;
  }
}

// ---- buffers ----------------------------------------------------------------------------------------------------

struct Buffer {
  size_t bytes;
  std::vector<Word> words;  // made at the first access
};

std::mutex buffers_mutex;  // torch allocates from other threads too

std::map<const char*, Buffer>& buffers() {
  static auto* map = new std::map<const char*, Buffer>;  // outlives every tensor
  return *map;
}

bool poisoned(const char* address, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (static_cast<unsigned char>(address[i]) != kPoison) return false;
  }
  return true;
}

std::string describe_access(size_t bytes, Access kind) {
  return (kind == kRead ? "reads " : kind == kWrite ? "writes " : "updates ") + std::to_string(bytes) + " bytes ";
}

// Red zones and alignment leave at most one buffer per 256 bytes, so a page of that size identifies the buffer.
struct Page {
  uintptr_t number;
  const char* begin;
  Buffer* buffer;
};
Page recent_pages[1024];

Page& page_of(const char* address) {
  const uintptr_t number = reinterpret_cast<uintptr_t>(address) / kAlignment;
  Page& page = recent_pages[number % std::size(recent_pages)];
  if (page.number == number && page.buffer) return page;
  const std::lock_guard lock(buffers_mutex);
  const auto next = buffers().upper_bound(address);
  if (next == buffers().begin()) return page = {number, nullptr, nullptr};
  const auto found = std::prev(next);
  return page = {number, found->first, &found->second};
}

void forget_pages() { std::fill_n(recent_pages, std::size(recent_pages), Page{}); }

std::string describe_place(const char* address, const Page& page) {
  const size_t offset = size_t(address - page.begin);
  if (page.buffer && offset < page.buffer->bytes + kNear) {
    return "outside every buffer, " + std::to_string(int64_t(offset) - int64_t(page.buffer->bytes)) +
           " bytes past the end of one of " + std::to_string(page.buffer->bytes);
  }
  const std::lock_guard lock(buffers_mutex);
  const auto next = buffers().upper_bound(address);
  if (next == buffers().end() || size_t(next->first - address) >= kNear) return "outside every buffer";
  return "outside every buffer, " + std::to_string(next->first - address) + " bytes before one of " +
         std::to_string(next->second.bytes);
}

void check_buffer(const char* address, size_t bytes, Access kind) {
  const Page& page = page_of(address);
  const size_t offset = size_t(address - page.begin);
  if (!page.buffer || offset + bytes > page.buffer->bytes) {
    fail(describe_access(bytes, kind) + describe_place(address, page));
  }
  // A narrow value equals the pattern too easily.
  if (kind != kWrite && bytes >= 4 && poisoned(address, bytes)) {
    fail(describe_access(bytes, kind) + "that nothing has written, " + std::to_string(offset) +
         " bytes into a buffer of " + std::to_string(page.buffer->bytes));
  }
  std::vector<Word>& words = page.buffer->words;
  if (words.empty()) words.resize((page.buffer->bytes + 3) / 4);
  check_race(words, offset, bytes, kind, false);
}

// ---- shared memory ----------------------------------------------------------------------------------------------

// Static shared variables are this module's thread-local ones: one block runs at a time, and its fibers are one thread
// for the operating system. Dynamic shared memory is an array of our own.
struct SharedVariable {
  std::string name;
  size_t begin, end;
};

struct SharedMemory {
  char* data;
  size_t bytes;
  std::vector<SharedVariable> variables;
  std::vector<Word> words;
  std::vector<bool> written;

  bool contains(const char* address) const { return address >= data && address < data + bytes; }
  void poison() {
    std::memset(data, kPoison, bytes);
    std::fill(written.begin(), written.end(), false);
    words.resize((bytes + 3) / 4);
    written.resize(bytes);
  }
};

SharedMemory static_shared, dynamic_shared;

// Names, offsets and sizes of the thread-local variables, from the symbol table of this module's file.
std::vector<SharedVariable> read_variables() {
  std::vector<SharedVariable> variables;
  Dl_info module{};
  dladdr(reinterpret_cast<const void*>(&begin_block_memory), &module);
  FILE* symbols = popen(("env -u LD_PRELOAD readelf -sWC '" + std::string(module.dli_fname) + "'").c_str(), "r");
  char line[4096], name[4000];
  unsigned long long value, bytes;
  while (symbols && fgets(line, sizeof line, symbols)) {
    if (sscanf(line, " %*d: %llx %llu TLS %*s %*s %*s %3999[^\n]", &value, &bytes, name) != 3) continue;
    variables.push_back({name, value, value + bytes});
  }
  if (symbols) pclose(symbols);
  return variables;
}

void check_shared(SharedMemory& memory, size_t offset, size_t bytes, Access kind) {
  const SharedVariable* variable = nullptr;
  for (const SharedVariable& candidate : memory.variables) {
    if (offset >= candidate.begin && offset + bytes <= candidate.end) variable = &candidate;
  }
  if (!variable) fail(describe_access(bytes, kind) + "outside every variable in shared memory");
  for (size_t i = offset; i < offset + bytes; ++i) {
    if (kind != kWrite && !memory.written[i]) {
      fail(describe_access(bytes, kind) + "that no thread of the block has written, at byte " +
           std::to_string(i - variable->begin) + " of " + variable->name + " in shared memory");
    }
    if (kind != kRead) memory.written[i] = true;
  }
  check_race(memory.words, offset, bytes, kind, true);
}

}  // namespace

void begin_block_memory(size_t dynamic_size) {
  static const std::vector<SharedVariable> variables = read_variables();
  static_shared.variables = variables;
  const Span place = static_shared_span();
  static_shared.data = place.begin;
  static_shared.bytes = place.bytes;
  static_shared.poison();
  dynamic_shared = {dynamic_shared_space,
                    dynamic_size,
                    {{"dynamic shared memory", 0, dynamic_size}},
                    std::move(dynamic_shared.words),
                    std::move(dynamic_shared.written)};
  dynamic_shared.poison();
}

void* dynamic_shared_bytes() {
  if (dynamic_shared.bytes == 0) fail("uses dynamic shared memory, but was launched with none");
  return dynamic_shared.data;
}

void access(const void* address, size_t bytes, Access kind) {
  if (kSanitized) return;
  const char* at = static_cast<const char*>(address);
  if (!here.launch || (at >= here.stack && at < here.stack + kStackBytes)) return;
  if (kind == kAtomic) here.block_used_atomics = true;
  for (SharedMemory* memory : {&static_shared, &dynamic_shared}) {
    if (memory->contains(at)) return check_shared(*memory, size_t(at - memory->data), bytes, kind);
  }
  if (in_module(at)) return;
  check_buffer(at, bytes, kind);
}

void* allocate(size_t bytes) {
  void* base = nullptr;
  if (posix_memalign(&base, kAlignment, bytes + 2 * kRedZone) != 0) throw std::bad_alloc();
  char* buffer = static_cast<char*>(base) + kRedZone;
  std::memset(buffer, kPoison, bytes);
  const std::lock_guard lock(buffers_mutex);
  buffers()[buffer] = {bytes, {}};
  forget_pages();
  return buffer;
}

void release(void* buffer) {
  if (!buffer) return;
  {
    const std::lock_guard lock(buffers_mutex);
    buffers().erase(static_cast<const char*>(buffer));
    forget_pages();
  }
  free(static_cast<char*>(buffer) - kRedZone);
}

}  // namespace emulator

// ---- what the compiler calls ------------------------------------------------------------------------------------

// assert() in a kernel. Hidden, so that all other code keeps the C library's.
extern "C" [[noreturn]] __attribute__((visibility("hidden"))) void __assert_fail(const char* condition,
                                                                                 const char* file, unsigned line,
                                                                                 const char*) noexcept {
  const std::string text = std::string("assertion failed: ") + condition + ", " + file + ":" + std::to_string(line);
  if (emulator::here.launch) emulator::fail(text);
  fprintf(stderr, "%s\n", text.c_str());
  abort();
}

#if !defined(__SANITIZE_ADDRESS__)

namespace emulator {
namespace {
void hooked(const void*, const void* address, size_t bytes, Access kind, bool aligned) {
  if (aligned && here.launch && reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    fail("misaligned access of " + std::to_string(bytes) + " bytes");
  }
  access(address, bytes, kind);
}
}  // namespace
}  // namespace emulator

#include "access_hooks.h"

// The position in the source, which the compiler passes to each of the reports below.
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};

[[noreturn]] void fail_at(const SourceLocation& where, const std::string& what) {
  const std::string text = what + ", " + where.file + ":" + std::to_string(where.line);
  if (emulator::here.launch) emulator::fail(text);
  fprintf(stderr, "emulator: %s\n", text.c_str());
  abort();
}

// -fsanitize=alignment: the compiler may split a misaligned vector load into scalar loads, which the hooks accept.
extern "C" void __ubsan_handle_type_mismatch_v1_abort(const void* where, uintptr_t address) {
  fail_at(*static_cast<const SourceLocation*>(where),
          "misaligned access at an address that ends in " + std::to_string(address % 256));
}

// -fsanitize=bounds: shared arrays lie side by side, so an access may leave one for the next.
extern "C" void __ubsan_handle_out_of_bounds_abort(const void* where, uintptr_t index) {
  fail_at(*static_cast<const SourceLocation*>(where), "index " + std::to_string(intptr_t(index)) + " outside an array");
}

#endif
