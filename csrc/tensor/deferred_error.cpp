#include "tensor/deferred_error.h"

#include <ATen/ops/zeros.h>

#include <array>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "kernels/match_anchors.h"
#include "tensor/op.h"

namespace retinanet_fast {
namespace {

// The ops whose kernels check labels or boxes on the GPU, and what they expect of a label.
struct Op {
  std::string_view name;
  const char* expected;
  const char* rows;
};
constexpr std::array<Op, 4> kOps = {{
    {"match_anchors", "", ""},
    {"retinanet_loss", "gt_labels in [0, C)", " of the batch's boxes"},
    {"sigmoid_focal_loss", "class indices in [-2, K)", ""},
    {"softmax_focal_loss", "class indices in [0, C)", ""},
}};

// A word of host memory per op, for each device that one has run on.
class HostWords {
 public:
  static HostWords& all() {
    static auto& words = *new HostWords;  // never freed: torch's allocator may go first
    return words;
  }

  // The words of a device. Null if they would have to be allocated while a graph is captured, which CUDA forbids.
  int64_t* of(const c10::Device& device) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto found = words_.find(device.str());
    if (found == words_.end()) {
      if (is_capturing(device)) return nullptr;
      const auto options = at::TensorOptions(at::kLong).pinned_memory(device.is_cuda());
      found = words_.emplace(device.str(), at::zeros({int64_t(kOps.size())}, options)).first;
    }
    return found->second.mutable_data_ptr<int64_t>();
  }

  std::map<std::string, at::Tensor> copy() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return words_;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, at::Tensor> words_;
};

// Takes the first code out of `words`, if there is one, and raises the error that it stands for.
void raise_any(int64_t* words, const std::string& when) {
  for (size_t i = 0; i < kOps.size(); ++i) {
    const int64_t code = __atomic_exchange_n(words + i, 0, __ATOMIC_RELAXED);
    if (code == 0) continue;
    const std::string context = std::string(kOps[i].name) + when;
    TORCH_CHECK_INDEX(code > 0, context, ": expected ", kOps[i].expected, ", got ", bad_label_value(code), " in row ",
                      bad_label_row(code), kOps[i].rows);
    const auto kind = bad_box_row(code) == kBadCountRow ? Status::Code::kBadCount : Status::Code::kBadBox;
    raise_unless_ok(context.c_str(), {kind, bad_box_row(code), bad_box_image(code)});
  }
}

}  // namespace

DeferredError::DeferredError(const char* op, const at::Tensor& tensor)
    : device_(tensor.device()), word_(uses_cpu_kernels(op, tensor) ? nullptr : HostWords::all().of(tensor.device())) {
  if (!word_) return;
  raise_any(word_, " (an earlier call on " + device_.str() + ")");
  for (const Op& other : kOps) {
    if (other.name == op) return;
    ++word_;
  }
  TORCH_INTERNAL_ASSERT(false, op);
}

void DeferredError::raise_if_known() const {
  if (word_ && runs_synchronously(device_)) raise_any(HostWords::all().of(device_), "");
}

void synchronize_errors() {
  for (const auto& [device, words] : HostWords::all().copy()) {
    synchronize(c10::Device(device));
    raise_any(words.mutable_data_ptr<int64_t>(), " (on " + device + ")");
  }
}

}  // namespace retinanet_fast
