// Scores as unsigned integers whose ascending order is that of torch.sort(descending=True, stable=True).
#pragma once

#include "math/platform.h"
#include "math/scalar.h"

namespace retinanet_fast::math {

template <class C>
struct KeyOf {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};
template <class C>
using Key = typename KeyOf<C>::type;

// Greater scores have smaller keys, equal scores (0 and -0 too) the same, and NaN has the smallest.
template <class C>
RETINANET_FAST_INLINE Key<C> descending_key(C score) {
  using K = Key<C>;
  constexpr K kSign = K(1) << (8 * sizeof(K) - 1);
  const K bits = bit_cast<K>(score + C(0));  // -0 + 0 = 0
  const K ascending = bits & kSign ? ~bits : bits | kSign;
  return score != score ? K(0) : K(~ascending);
}

}  // namespace retinanet_fast::math
