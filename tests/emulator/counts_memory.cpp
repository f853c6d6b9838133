// Buffers, and which of their sectors a launch and a block have touched.
#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <new>

#include "counts_state.h"
#include "places.h"
#include "state.h"

namespace emulator {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kStreamed = 2 << 20;

Span static_shared;

struct Buffer {
  size_t bytes;
  std::vector<uint32_t> launch, block;  // by sector: the last that touched it
};
std::map<const char*, Buffer>& buffers() {
  static auto* map = new std::map<const char*, Buffer>;  // outlives every tensor
  return *map;
}
struct Found {
  const char* begin;
  Buffer* buffer;
};
Found recent[4];

Buffer* buffer_of(const char* address, const char** begin) {
  for (Found& found : recent) {
    if (found.buffer && address >= found.begin && address < found.begin + found.buffer->bytes) {
      *begin = found.begin;
      return found.buffer;
    }
  }
  const auto next = buffers().upper_bound(address);
  if (next == buffers().begin()) return nullptr;
  const auto at = std::prev(next);
  if (address >= at->first + at->second.bytes) return nullptr;
  std::rotate(recent, recent + 3, recent + 4);
  recent[0] = {at->first, &at->second};
  *begin = at->first;
  return &at->second;
}

}  // namespace

bool in_shared(const char* address) {
  return static_shared.contains(address) ||
         (address >= dynamic_shared_space && address < dynamic_shared_space + sizeof dynamic_shared_space);
}

bool in_streamed_buffer(const char* address) {
  const char* begin;
  const Buffer* buffer = buffer_of(address, &begin);
  return buffer && buffer->bytes >= kStreamed;
}

From touch(const char* address, size_t bytes) {
  const char* begin;
  Buffer* buffer = buffer_of(address, &begin);
  if (!buffer) return From::kL1;
  if (buffer->launch.empty()) {
    buffer->launch.resize(buffer->bytes / kSector + 2);
    buffer->block.resize(buffer->bytes / kSector + 2);
  }
  From from = From::kL1;
  for (size_t sector = size_t(address - begin) / kSector; sector <= size_t(address + bytes - 1 - begin) / kSector;
       ++sector) {
    if (buffer->block[sector] == block_number) continue;
    ++totals.block_sectors;
    buffer->block[sector] = block_number;
    const bool is_new = buffer->launch[sector] != launch_number;
    totals.unique_sectors += is_new;
    buffer->launch[sector] = launch_number;
    from = std::max(from, is_new ? From::kDram : From::kL2);
  }
  return from;
}

void begin_block_memory(size_t) {
  static_shared = static_shared_span();
  ++block_number;
}

void* dynamic_shared_bytes() { return dynamic_shared_space; }

void* allocate(size_t bytes) {
  void* buffer = nullptr;
  if (posix_memalign(&buffer, kAlignment, bytes) != 0) throw std::bad_alloc();
  buffers()[static_cast<const char*>(buffer)] = {bytes, {}, {}};
  std::fill(std::begin(recent), std::end(recent), Found{});
  return buffer;
}

void release(void* buffer) {
  if (!buffer) return;
  buffers().erase(static_cast<const char*>(buffer));
  std::fill(std::begin(recent), std::end(recent), Found{});
  free(buffer);
}

}  // namespace emulator
