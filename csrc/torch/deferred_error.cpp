#include "torch/deferred_error.h"

#include <ATen/ops/zeros.h>

#include <map>
#include <mutex>
#include <string>

#include "kernels/match_anchors.h"
#include "kernels/retinanet_loss.h"
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

void raise_code(const std::string& context, int64_t code) {
  if (code == 0) return;
  TORCH_CHECK_INDEX(code > 0, context, ": expected gt_labels in [0, C), got ", bad_label_value(code), " in row ",
                    bad_label_row(code), " of the batch's boxes");
  raise_unless_ok(context.c_str(), {Status::Code::kBadBox, bad_box_row(code), bad_box_image(code)});
}

}  // namespace

int64_t* deferred_error(const char* op, const at::Tensor& tensor) {
  if (uses_cpu_kernels(tensor)) return nullptr;
  int64_t* word = host_word(tensor.device());
  raise_code(std::string(op) + " (an earlier call on " + tensor.device().str() + ")",
             __atomic_exchange_n(word, 0, __ATOMIC_RELAXED));
  return word;
}

void raise_deferred_error_of_emulator(const char* op, const at::Tensor& tensor) {
  if (!tensor.is_cpu() || uses_cpu_kernels(tensor)) return;
  raise_code(op, __atomic_exchange_n(host_word(tensor.device()), 0, __ATOMIC_RELAXED));
}

}  // namespace retinanet_fast
