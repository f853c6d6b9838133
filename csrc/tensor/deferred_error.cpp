#include "tensor/deferred_error.h"

#include <ATen/ops/zeros.h>

#include <map>
#include <mutex>
#include <string>

#include "kernels/match_anchors.h"
#include "kernels/retinanet_loss.h"
#include "tensor/op.h"

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

// Takes the code from `word` and raises what it says.
void raise_code(const std::string& context, int64_t* word) {
  const int64_t code = __atomic_exchange_n(word, 0, __ATOMIC_RELAXED);
  if (code == 0) return;
  TORCH_CHECK_INDEX(code > 0, context, ": expected gt_labels in [0, C), got ", bad_label_value(code), " in row ",
                    bad_label_row(code), " of the batch's boxes");
  raise_unless_ok(context.c_str(), {Status::Code::kBadBox, bad_box_row(code), bad_box_image(code)});
}

}  // namespace

DeferredError::DeferredError(const char* op, const at::Tensor& tensor)
    : op_(op), device_(tensor.device()), word_(uses_cpu_kernels(op, tensor) ? nullptr : host_word(tensor.device())) {
  if (word_) raise_code(std::string(op) + " (an earlier call on " + device_.str() + ")", word_);
}

void DeferredError::raise_if_known() const {
  if (word_ && runs_synchronously(device_)) raise_code(op_, word_);
}

}  // namespace retinanet_fast
