// The perimeter of a box.
#pragma once

#include "math/box.h"

namespace retinanet_fast::math {

template <class T>
RETINANET_FAST_INLINE T perimeter(const Box<T>& box) {
  return T(2) * ((box.x2 - box.x1) + (box.y2 - box.y1));
}

}  // namespace retinanet_fast::math
