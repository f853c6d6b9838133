// What -fsanitize=thread has called before each access. Included once in a variant, behind its
//   emulator::hooked(const void* place, const void* address, size_t bytes, Access kind, bool aligned)
// where `place` is one in the code, and `aligned` says that the compiler takes the address for a multiple of `bytes`.
#pragma once

#define EMULATOR_HOOK(name, bytes, kind)                                                  \
  extern "C" void __tsan_##name##bytes(void* address) {                                   \
    emulator::hooked(__builtin_return_address(0), address, bytes, emulator::kind, true);  \
  }                                                                                       \
  extern "C" void __tsan_unaligned_##name##bytes(void* address) {                         \
    emulator::hooked(__builtin_return_address(0), address, bytes, emulator::kind, false); \
  }
#define EMULATOR_HOOKS(bytes) EMULATOR_HOOK(read, bytes, kRead) EMULATOR_HOOK(write, bytes, kWrite)
EMULATOR_HOOKS(1)
EMULATOR_HOOKS(2)
EMULATOR_HOOKS(4)
EMULATOR_HOOKS(8)
EMULATOR_HOOKS(16)
#undef EMULATOR_HOOKS
#undef EMULATOR_HOOK
extern "C" void __tsan_read_range(void* address, size_t bytes) {
  emulator::hooked(__builtin_return_address(0), address, bytes, emulator::kRead, false);
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
  emulator::hooked(__builtin_return_address(0), address, bytes, emulator::kWrite, false);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
