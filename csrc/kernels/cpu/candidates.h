// Keeps the best candidates of a scan: collects whatever passes a bound, and when full drops all but the best and
// raises the bound. Included by CPU kernels only: everything lives in the namespace of their x86-64 level.
#pragma once

#include "kernels/cpu/retinanet_detect_workspace.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

// Moves the `count` smallest of the n distinct keys to the front, in the order that they had, and returns the largest
// of them; 0 < count < n. A radix selection from the highest byte in which keys differ.
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

// The best bound that the scans of one image's level have found together. What it keeps out cannot be among the best of
// them all, so the result does not depend on when which task raises it.
struct SharedBound {
  uint64_t* key;
  uint32_t* histogram;  // [kDetectBoundBins], of the candidates of finished scans by score; null for a single scan

  uint64_t load() const { return __atomic_load_n(key, __ATOMIC_RELAXED); }

  void raise(uint64_t candidate) const {
    uint64_t found = load();
    while (candidate < found &&
           !__atomic_compare_exchange_n(key, &found, candidate, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }

  // Adds a finished scan's candidates. The bound becomes the worst key of the bin with the topk-th best of all so far.
  void add(const uint64_t* keys, int64_t n, int64_t topk) const {
    if (histogram == nullptr) return;
    for (int64_t i = 0; i < n; ++i) {
      __atomic_fetch_add(histogram + ((keys[i] >> kDetectBoundShift) - kDetectFirstBin), 1, __ATOMIC_RELAXED);
    }
    int64_t count = 0;
    for (uint64_t bin = 0; bin < kDetectBoundBins; ++bin) {
      count += __atomic_load_n(histogram + bin, __ATOMIC_RELAXED);
      if (count >= topk) return raise(((kDetectFirstBin + bin + 1) << kDetectBoundShift) - 1);
    }
  }
};

class Candidates {
 public:
  // Keeps the best `topk`.
  Candidates(const RetinanetDetectParams& p, int64_t topk, uint64_t* entries, int64_t capacity,
             const SharedBound& shared)
      : p_(p), topk_(topk), entries_(entries), full_(capacity - kDetectBlock), shared_(shared) {
    raise_bound();
  }

  const math::CandidateBound& bound() const { return bound_; }

  // Takes those of `count` <= kDetectBlock logits that pass the bound, without a branch per logit.
  template <class T>
  void take(const T* logits, int64_t stride, int64_t count, uint32_t index, uint32_t index_step) {
    int64_t size = size_;
    for (int64_t i = 0; i < count; ++i, index += index_step) {
      const float logit = float(math::load(logits[i * stride]));
      entries_[size] = uint64_t(math::bit_cast<uint32_t>(logit)) << 32 | index;
      size += bound_.admits(logit, index);
    }
    size_ = size;
    if (size_ > full_) {
      keep_best();
      raise_bound();
    }
  }

  // Leaves the keys of the best candidates in front, in no order; returns their number.
  int64_t finish() {
    keep_best();
    shared_.add(entries_, size_, topk_);
    return size_;
  }

 private:
  void keep_best() {
    make_keys();
    if (size_ > topk_) {
      shared_.raise(select_smallest(entries_, size_, topk_));
      size_ = topk_;
    }
    keys_ = size_;
  }

  void make_keys() {
    for (int64_t i = keys_; i < size_; ++i) {
      entries_[i] = math::candidate_key(math::bit_cast<float>(uint32_t(entries_[i] >> 32)), uint32_t(entries_[i]));
    }
    if (p_.class_thresh == nullptr) return;
    int64_t passed = keys_;
    for (int64_t i = keys_; i < size_; ++i) {
      const uint64_t key = entries_[i];
      entries_[passed] = key;
      passed +=
          math::candidate_score(key) > p_.class_thresh[math::candidate_index(key) % uint32_t(p_.head.num_classes)];
    }
    size_ = passed;
  }

  void raise_bound() {
    const uint64_t found = shared_.load();
    bound_ = found == ~uint64_t(0) ? math::bound_by_threshold(p_.score_thresh) : math::bound_by_candidate(found);
  }

  const RetinanetDetectParams& p_;
  int64_t topk_;
  uint64_t* entries_;  // keys_ keys, and then pairs of a logit's bits and its index
  int64_t full_;
  SharedBound shared_;
  int64_t keys_ = 0;
  int64_t size_ = 0;
  math::CandidateBound bound_;
};

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
