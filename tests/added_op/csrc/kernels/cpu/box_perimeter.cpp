// Tasks of consecutive boxes.
#include "kernels/box_perimeter.h"

#include "kernels/cpu/kernels.h"
#include "math/box_perimeter.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

using namespace math;

Status box_perimeter(const BoxPerimeterParams& p, const Executor& executor) {
  constexpr int64_t kTask = 4096;  // boxes
  return dispatch_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    executor.parallel_for(ceil_div(p.n, kTask), [&](int64_t task) {
      for (int64_t i = task * kTask; i < min2(p.n, (task + 1) * kTask); ++i) {
        store(static_cast<T*>(p.perimeters)[i], perimeter(load_box(static_cast<const T*>(p.boxes) + 4 * i)));
      }
    });
    return Status{};
  });
}

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
