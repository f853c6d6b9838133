#include "torch/deferred_error.h"

#include <ATen/ops/zeros.h>

#include <map>
#include <mutex>
#include <string>

#include "kernels/match_anchors.h"
#include "torch/common.h"

namespace retinanet_fast {
namespace {

int64_t* host_word(const at::Device& device) {
  static std::mutex mutex;
  static auto& words = *new std::map<c10::DeviceIndex, at::Tensor>;  // never freed: torch's allocator may go first
  const std::lock_guard<std::mutex> lock(mutex);
  at::Tensor& word = words[device.index()];
  if (!word.defined()) word = at::zeros({1}, at::TensorOptions(at::kLong).pinned_memory(device.is_cuda()));
  return word.mutable_data_ptr<int64_t>();
}

}  // namespace

int64_t* deferred_error(const char* op, const at::Tensor& tensor) {
  if (uses_cpu_kernels(tensor)) return nullptr;
  int64_t* word = host_word(tensor.device());
  const int64_t code = __atomic_exchange_n(word, 0, __ATOMIC_RELAXED);
  if (code != 0) {
    const std::string context = std::string(op) + " (an earlier call on " + tensor.device().str() + ")";
    raise_unless_ok(context.c_str(), {Status::Code::kBadBox, bad_box_row(code), bad_box_image(code)});
  }
  return word;
}

}  // namespace retinanet_fast
