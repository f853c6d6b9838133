// Keeps the best candidates of a scan: collects whatever passes a bound, and when full drops all but the best and
// raises the bound. Included by kernels of one level only: everything lives in its namespace.
#pragma once

#include "kernels/retinanet_detect.h"

namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL {

// Moves the `count` smallest of the n distinct keys to the front, in the order that they had; 0 < count < n.
// A radix selection from the highest byte in which keys differ. Returns the largest of them.
inline uint64_t select_smallest(uint64_t* keys, int64_t n, int64_t count) {
  uint64_t differing = 0;
  for (int64_t i = 1; i < n; ++i) differing |= keys[i] ^ keys[0];
  int shift = 56;
  while (shift > 0 && differing >> shift == 0) shift -= 8;
  uint64_t decided = shift == 56 ? 0 : ~uint64_t(0) << (shift + 8);
  uint64_t prefix = keys[0] & decided;
  for (int64_t wanted = count; shift >= 0; shift -= 8) {
    int64_t counts[256] = {};
    for (int64_t i = 0; i < n; ++i) {
      counts[(keys[i] >> shift) & 255] += (keys[i] & decided) == prefix;
    }
    uint64_t digit = 0;
    for (; counts[digit] < wanted; ++digit) wanted -= counts[digit];
    prefix |= digit << shift;
    decided |= uint64_t(255) << shift;
    if (counts[digit] == wanted) break;
  }
  const uint64_t limit = prefix | ~decided;
  uint64_t largest = 0;
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t key = keys[i];
    keys[kept] = key;
    kept += key <= limit;
    largest = key <= limit && key > largest ? key : largest;
  }
  return largest;
}

class Candidates {
 public:
  // `shared` is the best bound that any scan of the same image and level has found: what it keeps out could not be
  // among the best of them all, so that the result does not depend on who raises it when.
  Candidates(const RetinanetDetectParams& p, uint64_t* entries, int64_t capacity, uint64_t* shared)
      : p_(p), entries_(entries), full_(capacity - kDetectBlock), shared_(shared) {
    raise_bound();
  }

  const math::CandidateBound& bound() const { return bound_; }

  // Takes those of `count` <= kDetectBlock logits that pass the bound, without a branch for each.
  template <class T>
  void take(const T* logits, int64_t stride, int64_t count, uint32_t index, uint32_t index_step) {
    int64_t size = size_;
    for (int64_t i = 0; i < count; ++i, index += index_step) {
      const float logit = float(math::load(logits[i * stride]));
      entries_[size] = uint64_t(math::bit_cast<uint32_t>(logit)) << 32 | index;
      size += bound_.admits(logit, index);
    }
    size_ = size;
    if (size_ > full_) settle();
  }

  // The keys of the best candidates lie in front, in no order; returns their number.
  int64_t settle() {
    make_keys();
    if (size_ > p_.topk) {
      publish(select_smallest(entries_, size_, p_.topk));
      size_ = p_.topk;
    }
    keys_ = size_;
    raise_bound();
    return size_;
  }

 private:
  void make_keys() {
    for (int64_t i = keys_; i < size_; ++i) {
      entries_[i] = math::candidate_key(math::bit_cast<float>(uint32_t(entries_[i] >> 32)), uint32_t(entries_[i]));
    }
    if (p_.class_thresh == nullptr) return;
    int64_t passed = keys_;
    for (int64_t i = keys_; i < size_; ++i) {
      const uint64_t key = entries_[i];
      entries_[passed] = key;
      passed += math::candidate_score(key) > p_.class_thresh[math::candidate_index(key) % uint32_t(p_.num_classes)];
    }
    size_ = passed;
  }

  void publish(uint64_t key) {
    uint64_t found = __atomic_load_n(shared_, __ATOMIC_RELAXED);
    while (key < found &&
           !__atomic_compare_exchange_n(shared_, &found, key, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }

  void raise_bound() {
    const uint64_t found = __atomic_load_n(shared_, __ATOMIC_RELAXED);
    bound_ = found == ~uint64_t(0) ? math::bound_by_threshold(p_.score_thresh) : math::bound_by_candidate(found);
  }

  const RetinanetDetectParams& p_;
  uint64_t* entries_;  // keys, and from keys_ on pairs of a logit's bits and its index
  int64_t full_;
  uint64_t* shared_;
  int64_t keys_ = 0;
  int64_t size_ = 0;
  math::CandidateBound bound_;
};

}  // namespace retinanet_fast::RETINANET_FAST_CPU_LEVEL
