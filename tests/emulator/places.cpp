#include "places.h"

#include <link.h>

#include <cstdint>

// The linker's names for the first and last byte of this module.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start, _end;

namespace emulator {
namespace {

const char inside = 0;              // an address of this module's
thread_local volatile char anchor;  // accessed so that the module's thread-local block of this thread exists

// Of the module that `inside` lies in, finds this thread's thread-local block.
int find_thread_local(dl_phdr_info* module, size_t, void* to) {
  for (int i = 0; i < module->dlpi_phnum; ++i) {
    const auto& segment = module->dlpi_phdr[i];
    const auto own = reinterpret_cast<uintptr_t>(&inside) - module->dlpi_addr - segment.p_vaddr;
    if (segment.p_type == PT_LOAD && own < segment.p_memsz) break;
    if (i + 1 == module->dlpi_phnum) return 0;
  }
  for (int i = 0; i < module->dlpi_phnum; ++i) {
    if (module->dlpi_phdr[i].p_type != PT_TLS) continue;
    *static_cast<Span*>(to) = {static_cast<char*>(module->dlpi_tls_data), module->dlpi_phdr[i].p_memsz};
  }
  return 1;
}

}  // namespace

alignas(256) char dynamic_shared_space[256 << 10];

Span static_shared_span() {
  anchor = 0;
  Span span{};
  dl_iterate_phdr(find_thread_local, &span);
  return span;
}

bool in_module(const char* address) { return address >= &__ehdr_start && address < &_end; }
size_t module_offset(const char* address) { return size_t(address - &__ehdr_start); }
size_t module_bytes() { return size_t(&_end - &__ehdr_start); }

}  // namespace emulator
