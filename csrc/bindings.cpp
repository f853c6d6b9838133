// The Python module `_C`. Importing it registers the ops. Its functions are typed, documented bindings of the ops,
// which cmake/generate_bindings.py makes from their schemas; they call the ops through the dispatcher.
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <vector>

#include "build_info.h"
#include "kernels/cpu/kernels.h"
#include "tensor/deferred_error.h"
#include "tensor/memory.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = RETINANET_FAST_VERSION;
  info["plan"] = RETINANET_FAST_BUILD_PLAN;
  info["torch"] = RETINANET_FAST_TORCH_VERSION;
  info["cuda"] = RETINANET_FAST_CUDA_VERSION;
  info["cuda_architectures"] = RETINANET_FAST_CUDA_ARCHITECTURES;
  info["compiler"] = RETINANET_FAST_COMPILER;
  info["cpu_level"] = retinanet_fast::cpu_kernels().level;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "retinanet_fast's compiled ops. Importing this module registers torch.ops.retinanet_fast.*";
  m.def("build_info", &build_info, "What this extension was built from and for, and the CPU level in use.");
  m.def("release_kept_memory", &retinanet_fast::release_kept_memory,
        "Gives back the memory of large CPU results that is kept for the next ones.");
  m.def("synchronize_errors", &retinanet_fast::synchronize_errors, py::call_guard<py::gil_scoped_release>(),
        "Waits for the GPUs and raises what kernels found wrong in labels or boxes.");
#include "bindings.inc"
}
