// Every op's schema, and the Python module `_C`: importing it registers the ops; its functions are a typed,
// documented door to them through the same dispatcher.
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include "build_info.h"
#include "kernels/cpu/kernels.h"
#include "torch/common.h"

namespace py = pybind11;

TORCH_LIBRARY(retinanet_fast, m) {
  m.def("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("box_iou_backward(Tensor grad_iou, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)");
}

namespace retinanet_fast {
namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = RETINANET_FAST_VERSION;
  info["plan"] = RETINANET_FAST_BUILD_PLAN;
  info["torch"] = RETINANET_FAST_TORCH_VERSION;
  info["cuda"] = RETINANET_FAST_CUDA_VERSION;
  info["cuda_architectures"] = RETINANET_FAST_CUDA_ARCHITECTURES;
  info["compiler"] = RETINANET_FAST_COMPILER;
  info["cpu_level"] = cpu_kernels().level;
  return info;
}

}  // namespace
}  // namespace retinanet_fast

PYBIND11_MODULE(_C, m) {
  using namespace retinanet_fast;
  m.doc() = "retinanet_fast's compiled ops. Importing this module registers torch.ops.retinanet_fast.*";
  m.def("build_info", &build_info, "What this extension was built from and for, and the CPU level in use.");
  m.def(
      "box_iou",
      [](const at::Tensor& boxes1, const at::Tensor& boxes2) {
        static const auto op = typed_op<at::Tensor(const at::Tensor&, const at::Tensor&)>("retinanet_fast::box_iou");
        return op.call(boxes1, boxes2);
      },
      py::arg("boxes1"), py::arg("boxes2"), "Pairwise IoU of xyxy boxes, [N, 4] and [M, 4] -> [N, M].");
}
