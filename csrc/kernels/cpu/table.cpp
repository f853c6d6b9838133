// The table of one x86-64 level, compiled like the kernels that it points at.
#include "kernels/cpu/kernels.h"

#define RETINANET_FAST_TEXT_(x) #x
#define RETINANET_FAST_TEXT(x) RETINANET_FAST_TEXT_(x)

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

const CpuKernels kernels = {RETINANET_FAST_TEXT(RETINANET_FAST_CPU_NAMESPACE),
#define RETINANET_FAST_ENTRY(name, Params) name,
                            RETINANET_FAST_CPU_KERNELS(RETINANET_FAST_ENTRY)
#undef RETINANET_FAST_ENTRY
};

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
