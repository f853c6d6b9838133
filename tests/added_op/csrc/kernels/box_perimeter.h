// Perimeters of boxes.
#pragma once

#include "kernels/common.h"

namespace retinanet_fast {

struct BoxPerimeterParams {
  const void* boxes;  // [N, 4] xyxy
  void* perimeters;   // [N]
  int64_t n;
  DType dtype;
};

Status box_perimeter_cuda(const BoxPerimeterParams& params, CudaStream stream);

}  // namespace retinanet_fast
