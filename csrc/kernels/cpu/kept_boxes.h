// The kept boxes that a candidate must be compared with, as chains of blocks of sixteen.
// Included by CPU kernels only: everything lives in the namespace of their x86-64 level.
#pragma once

#include "kernels/cpu/nms_workspace.h"
#include "math/iou_threshold.h"

namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE {

template <class C>
inline math::Box<C> lane_box(const KeptBlock<C>& block, int lane) {
  return {block.x1[lane], block.y1[lane], block.x2[lane], block.y2[lane]};
}

// Whether any of the block's boxes has iou > threshold with `box`.
template <class C>
inline bool block_suppresses(const KeptBlock<C>& block, const math::Box<C>& box, C area,
                             const math::IouThreshold<C>& threshold) {
  int32_t any = 0;
  if (threshold.screened) {
    for (int lane = 0; lane < KeptBlock<C>::kLanes; ++lane) {
      any |= int32_t(threshold.may_be_exceeded_by(lane_box(block, lane), block.area[lane], box, area));
    }
    if (any == 0) return false;
    any = 0;
  }
  for (int lane = 0; lane < KeptBlock<C>::kLanes; ++lane) {
    any |= int32_t(threshold.exceeded_by(lane_box(block, lane), block.area[lane], box, area));
  }
  return any != 0;
}

// The blocks of which chains are made, handed out in order.
template <class C>
struct KeptPool {
  KeptBlock<C>* blocks;
  int32_t* next;
  int32_t used = 0;

  bool suppresses(const KeptChain& chain, const math::Box<C>& box, C area,
                  const math::IouThreshold<C>& threshold) const {
    for (int32_t block = chain.newest; block >= 0; block = next[block]) {
      if (block_suppresses(blocks[block], box, area, threshold)) return true;
    }
    return false;
  }

  void add(KeptChain& chain, const math::Box<C>& box, C area) {
    if (chain.lanes_used == KeptBlock<C>::kLanes) {
      next[used] = chain.newest;
      chain = {used++, 0};
      for (C& empty : blocks[chain.newest].area) empty = std::numeric_limits<C>::quiet_NaN();
    }
    KeptBlock<C>& block = blocks[chain.newest];
    const int lane = chain.lanes_used++;
    block.x1[lane] = box.x1;
    block.y1[lane] = box.y1;
    block.x2[lane] = box.x2;
    block.y2[lane] = box.y2;
    block.area[lane] = area;
  }
};

}  // namespace retinanet_fast::RETINANET_FAST_CPU_NAMESPACE
