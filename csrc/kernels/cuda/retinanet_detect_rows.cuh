// What detection's kernels read: the logits of one level of one image, a row, as 16-byte vectors.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/retinanet_detect_workspace.h"
#include "kernels/cuda/vector.cuh"

namespace retinanet_fast {

// What the host knows about the rows of one level.
struct DetectLevelPlan {
  uint32_t first_tile;  // among an image's tiles
  uint32_t sample;      // vectors from which a bound is guessed, a power of two; 0: all of them
  uint32_t rank;        // the bound lets at least this many of the sample pass,
  uint32_t most;        // and at most this many if possible; 0: no bound is needed, there is room for the whole level
};

struct Detect {
  RetinanetDetectParams p;
  DetectCudaWorkspace space;
  DetectLevelPlan levels[kMaxLevels];
  uint32_t tiles;                  // per image
  math::CandidateBound threshold;  // where there is one for all classes
  uint32_t shared_keys;            // up to this many keys of a row are sorted in shared memory
};

// A row's logits in the order in which they lie in memory, with one of two layouts: channels last, or planes. Vectors
// are read whole where the row is dense.
template <class T>
class DetectRow {
 public:
  __device__ DetectRow(const Detect& d, int64_t image, int level)
      : d_(d),
        level_(d.p.head.levels[level]),
        channels_(uint32_t(d.p.head.channels())),
        cells_(uint32_t(level_.height * level_.width)),
        first_index_(uint32_t(level_.first_anchor * d.p.head.num_classes)),
        logits_(static_cast<const T*>(level_.logits) + image * level_.logits_strides.image) {
    const LevelStrides& at = level_.logits_strides;
    channels_last_ = has_channel_rows(d.p.head, level, at);
    const int64_t x = channels_last_ ? channels_ : 1;
    dense_ = (at.x == x || level_.width == 1) && (at.y == x * level_.width || level_.height == 1) &&
             (at.channel == (channels_last_ ? 1 : int64_t(cells_)) || channels_ == 1);
    before_ = dense_ ? int32_t(reinterpret_cast<uintptr_t>(logits_) % 16 / sizeof(T)) : 0;
  }

  __device__ int64_t size() const { return int64_t(cells_) * channels_; }

  // Vectors are aligned: the first may begin before the row and the last end after it. Nothing beyond the row is read.
  __device__ int64_t vectors() const { return ceil_div(size() + before_, kVector<T>); }
  __device__ int64_t place(int64_t vector) const { return vector * kVector<T> - before_; }
  __device__ bool holds(int64_t place) const { return place >= 0 && place < size(); }

  // Whether `count` vectors from this one on lie within the row, and densely.
  __device__ bool is_inside(int64_t vector, int64_t count) const {
    return dense_ && place(vector) >= 0 && place(vector + count) <= size();
  }
  __device__ uint4 read_inside(int64_t vector) const {
    return *reinterpret_cast<const uint4*>(logits_ + place(vector));
  }

  // Anything for places that the row does not hold.
  __device__ uint4 read(int64_t vector) const {
    if (is_inside(vector, 1)) return read_inside(vector);
    VectorOf<T> result{};
    const int64_t first = place(vector);
#pragma unroll 1
    for (int e = 0; e < kVector<T>; ++e) {
      if (holds(first + e)) result.values[e] = logits_[offset(uint32_t(first + e))];
    }
    return math::bit_cast<uint4>(result);
  }

  __device__ float logit(int64_t place) const { return float(math::load(logits_[offset(uint32_t(place))])); }

  // A logit's candidate index.
  __device__ uint32_t index(int64_t place) const {
    if (channels_last_) return first_index_ + uint32_t(place);
    const uint32_t channel = uint32_t(place) / cells_;
    return first_index_ + (uint32_t(place) - channel * cells_) * channels_ + channel;
  }

  __device__ bool passes_class(float logit, uint32_t index) const {
    return d_.p.class_thresh == nullptr || logit >= d_.space.lowest[index % uint32_t(d_.p.head.num_classes)];
  }

 private:
  __device__ int64_t offset(uint32_t place) const {
    if (dense_) return place;
    const uint32_t inner = channels_last_ ? channels_ : cells_;
    const uint32_t outer = place / inner;
    const uint32_t cell = channels_last_ ? outer : place - outer * inner;
    const uint32_t channel = channels_last_ ? place - outer * inner : outer;
    const uint32_t y = cell / uint32_t(level_.width);
    const LevelStrides& at = level_.logits_strides;
    return channel * at.channel + y * at.y + (cell - y * uint32_t(level_.width)) * at.x;
  }

  const Detect& d_;
  const HeadLevel& level_;
  uint32_t channels_;
  uint32_t cells_;
  uint32_t first_index_;
  const T* logits_;
  int32_t before_;  // elements from the beginning of the first vector to that of the row
  bool channels_last_;
  bool dense_;
};

}  // namespace retinanet_fast
