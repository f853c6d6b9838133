// Chooses the x86-64 level whose kernels run, when the first op does. Compiled once, for the baseline.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/cpu/kernels.h"

namespace retinanet_fast {

#if defined(__x86_64__)
// Weak: null where the build leaves a level out (RETINANET_FAST_CPU_LEVELS).
namespace cpu_x86_64_v2 {
[[gnu::weak]] extern const CpuKernels kernels;
}
namespace cpu_x86_64_v3 {
[[gnu::weak]] extern const CpuKernels kernels;
}
namespace cpu_x86_64_v4 {
[[gnu::weak]] extern const CpuKernels kernels;
}
#else
namespace cpu_generic {
extern const CpuKernels kernels;
}
#endif

namespace {

struct Level {
  const CpuKernels* kernels;
  bool supported;
};

const CpuKernels& choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  const Level levels[] = {
      {&cpu_x86_64_v4::kernels, v4}, {&cpu_x86_64_v3::kernels, v3}, {&cpu_x86_64_v2::kernels, true}};
#else
  const Level levels[] = {{&cpu_generic::kernels, true}};
#endif
  const char* wanted = std::getenv("RETINANET_FAST_CPU_LEVEL");
  std::string known;
  for (const Level& level : levels) {
    if (level.kernels == nullptr) continue;
    if (wanted == nullptr || *wanted == '\0') {
      if (level.supported) return *level.kernels;
    } else if (std::string(wanted) == level.kernels->level) {
      if (level.supported) return *level.kernels;
      throw std::runtime_error(std::string("RETINANET_FAST_CPU_LEVEL=") + wanted +
                               ": this processor does not support it");
    }
    known += std::string(known.empty() ? "" : ", ") + level.kernels->level;
  }
  if (wanted == nullptr || *wanted == '\0') {
    throw std::runtime_error("retinanet_fast is built for " + known + " only, which this processor does not support");
  }
  throw std::runtime_error("RETINANET_FAST_CPU_LEVEL: expected one of " + known + ", got " + wanted);
}

}  // namespace

const CpuKernels& cpu_kernels() {
  static const CpuKernels& chosen = choose();
  return chosen;
}

}  // namespace retinanet_fast
