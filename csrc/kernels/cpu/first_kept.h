// A detector proposes an object many times, so the few boxes that are kept first suppress most of the others. They are
// compared with sixteen candidates at once, without a division; only a candidate that survives is looked at on its own.
// Included by CPU kernels only: everything lives in the namespace of their x86-64 level.
#pragma once

#include "kernels/cpu/kept_boxes.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

template <class C>
class FirstKept {
 public:
  static constexpr int kLanes = 16;

  // For the thresholds that KeptGrid accepts: near a threshold of 0 an IoU could underflow.
  explicit FirstKept(const math::IouThreshold<C>& threshold) : high_(threshold.value * C(1 + 1e-6)) {}

  bool on() const { return on_; }

  void add(const math::Box<C>& box) {
    if (count_ < kMost) kept_[count_++] = box;
  }

  // Compares the candidates box_of(first), ... If suppressed()[i], one of the boxes has an IoU with candidate first + i
  // that is above the threshold by more than the division's rounding; if not, nothing is known.
  template <class BoxOf>
  void compare(int64_t first, int64_t n, const BoxOf& box_of) {
    const int lanes = int(math::min2(int64_t(kLanes), n - first));
    for (int i = 0; i < kLanes; ++i) {
      const math::Box<C> box = i < lanes ? box_of(first + i) : math::Box<C>{C(0), C(0), C(0), C(0)};
      x1_[i] = box.x1;
      y1_[i] = box.y1;
      x2_[i] = box.x2;
      y2_[i] = box.y2;
      area_[i] = math::area(box);
      suppressed_[i] = 0;
    }
    for (int k = 0; k < count_; ++k) compare_with(kept_[k]);
    for (int i = 0; i < lanes; ++i) suppressed_so_far_ += suppressed_[i];
    seen_ += lanes;
    if (seen_ >= kTrial && suppressed_so_far_ * 4 < seen_) on_ = false;
  }

  const int32_t* suppressed() const { return suppressed_; }

 private:
  void compare_with(const math::Box<C>& kept) {
    constexpr C kSmallest = sizeof(C) == 8 ? C(1e-280) : C(1e-28);  // far above subnormal numbers, which round coarsely
    const C kept_area = math::area(kept);
    for (int i = 0; i < kLanes; ++i) {
      const C inter = math::intersection(kept, {x1_[i], y1_[i], x2_[i], y2_[i]});
      const C union_ = kept_area + area_[i] - inter;
      suppressed_[i] |= int32_t((inter > kSmallest) & (inter >= high_ * union_));
    }
  }

  static constexpr int kMost = 64;
  static constexpr int64_t kTrial = 256;

  C high_;
  bool on_ = true;
  int count_ = 0;
  int64_t seen_ = 0, suppressed_so_far_ = 0;
  math::Box<C> kept_[kMost];
  C x1_[kLanes], y1_[kLanes], x2_[kLanes], y2_[kLanes], area_[kLanes];
  int32_t suppressed_[kLanes];
};

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
