// The CPU kernels, compiled once per x86-64 level, and the table of them that is chosen at run time.
//
// Every file of this folder but select.cpp is compiled once per level; RETINANET_FAST_CPU_NAMESPACE then names the
// namespace of its functions (cpu_x86_64_v2, ...). A new kernel is one more line in the list below.
#pragma once

#include "kernels/box_iou.h"
#include "kernels/common.h"
#include "kernels/decode_boxes.h"
#include "kernels/encode_boxes.h"
#include "kernels/match_anchors.h"
#include "kernels/nms.h"
#include "kernels/retinanet_detect.h"
#include "kernels/retinanet_loss.h"
#include "kernels/scale_gradient.h"
#include "kernels/sigmoid_focal_loss.h"
#include "kernels/softmax_focal_loss.h"

// name, params
#define RETINANET_FAST_CPU_KERNELS(X)                 \
  X(box_iou, BoxIouParams)                            \
  X(box_iou_backward, BoxIouBackwardParams)           \
  X(encode_boxes, EncodeBoxesParams)                  \
  X(encode_boxes_backward, EncodeBoxesBackwardParams) \
  X(decode_boxes, DecodeBoxesParams)                  \
  X(decode_boxes_backward, DecodeBoxesBackwardParams) \
  X(match_anchors, MatchAnchorsParams)                \
  X(retinanet_loss, RetinanetLossParams)              \
  X(nms, NmsParams)                                   \
  X(scale_gradient, ScaleGradientParams)              \
  X(sigmoid_focal_loss, SigmoidFocalLossParams)       \
  X(softmax_focal_loss, SoftmaxFocalLossParams)       \
  X(retinanet_detect, RetinanetDetectParams)

namespace retinanet_fast {

struct CpuKernels {
  const char* level;
#define RETINANET_FAST_FIELD(name, Params) Status (*name)(const Params&, const Executor&);
  RETINANET_FAST_CPU_KERNELS(RETINANET_FAST_FIELD)
#undef RETINANET_FAST_FIELD
};

// The table of the best level that this processor has, or of the one that the environment variable
// RETINANET_FAST_CPU_LEVEL names; throws std::runtime_error where that is unknown or not supported.
RETINANET_FAST_API const CpuKernels& cpu_kernels();

#ifdef RETINANET_FAST_CPU_NAMESPACE
namespace RETINANET_FAST_CPU_NAMESPACE {
#define RETINANET_FAST_DECLARE(name, Params) Status name(const Params& params, const Executor& executor);
RETINANET_FAST_CPU_KERNELS(RETINANET_FAST_DECLARE)
#undef RETINANET_FAST_DECLARE
extern const CpuKernels kernels;
}  // namespace RETINANET_FAST_CPU_NAMESPACE
#endif

}  // namespace retinanet_fast
