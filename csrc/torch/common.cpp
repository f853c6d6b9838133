#include "torch/common.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#ifdef RETINANET_FAST_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace retinanet_fast {
namespace {

// Threads take the next task when they are done with one, since tasks differ in length.
void run_on_torch_threads(int64_t tasks, void (*task)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(tasks, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < tasks; i = next++) task(context, i);
  });
}

}  // namespace

const Executor& torch_executor() {
  static constexpr Executor executor{run_on_torch_threads};
  return executor;
}

CudaStream current_stream([[maybe_unused]] const at::Device& device) {
#ifdef RETINANET_FAST_WITH_CUDA
  return c10::cuda::getCurrentCUDAStream(device.index()).stream();
#else
  return nullptr;
#endif
}

DType dtype_of(const char* op, const char* argument, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble: return DType::kFloat64;
    case at::kFloat: return DType::kFloat32;
    case at::kHalf: return DType::kFloat16;
    case at::kBFloat16: return DType::kBFloat16;
    default:
      TORCH_CHECK_TYPE(false, op, ": expected ", argument, " of float64, float32, float16 or bfloat16, got ",
                       tensor.scalar_type());
  }
}

void raise_unless_ok(const char* op, const Status& status) {
  switch (status.code) {
    case Status::Code::kOk: return;
    case Status::Code::kBadLabel:
      TORCH_CHECK_INDEX(false, op, ": expected class indices in [", status.low, ", ", status.high, "), got ",
                        status.value, " at row ", status.row);
    case Status::Code::kBadBox:
      TORCH_CHECK_VALUE(false, op, ": expected finite gt_boxes with x2 > x1 and y2 > y1, got another in image ",
                        status.value, ", row ", status.row, "; remove it or correct its corners");
    case Status::Code::kCuda:
#ifdef RETINANET_FAST_WITH_CUDA
      TORCH_CHECK(false, op, ": CUDA: ", cudaGetErrorString(static_cast<cudaError_t>(status.value)));
#endif
      break;
  }
  TORCH_INTERNAL_ASSERT(false, op, ": unknown status");
}

void check_boxes(const char* op, const char* argument, const at::Tensor& boxes) {
  TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == 4, op, ": expected ", argument, " [N, 4], got ",
                    boxes.sizes());
  dtype_of(op, argument, boxes);
}

void check_same_device(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like) {
  TORCH_CHECK_VALUE(tensor.device() == like.device(), op, ": expected ", argument, " on ", like.device(), ", got ",
                    tensor.device());
}

void check_same_dtype(const char* op, const char* argument, const at::Tensor& tensor, const at::Tensor& like) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), op, ": expected ", argument, " of dtype ",
                   like.scalar_type(), ", got ", tensor.scalar_type());
}

Reduction parse_reduction(const char* op, c10::string_view reduction) {
  if (reduction == "none") return Reduction::kNone;
  if (reduction == "mean") return Reduction::kMean;
  if (reduction == "sum") return Reduction::kSum;
  TORCH_CHECK_VALUE(false, op, ": expected reduction 'none', 'mean' or 'sum', got '", reduction, "'");
}

void check_gamma(const char* op, double gamma) {
  TORCH_CHECK_VALUE(std::isfinite(gamma) && gamma >= 0, op, ": expected a finite gamma >= 0, got ", gamma);
}

}  // namespace retinanet_fast
