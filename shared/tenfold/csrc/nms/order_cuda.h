// Candidates of a suppression in descending order of their scores, equal scores by row; on the device.
#pragma once
#include "common/device_scan.h"
#include "common/device_sort.h"

namespace tenfold::device {

// Ascending keys are descending scores; -0 and +0 are equal, and no score has the key of `nobody`.
__device__ __forceinline__ uint32_t descending(float score) {
  union { float f; uint32_t u; } bits{score + 0.0f};
  const uint32_t order = bits.u & 0x80000000u ? ~bits.u : bits.u | 0x80000000u;
  return ~order;
}
__device__ __forceinline__ uint64_t descending(double score) {
  union { double f; uint64_t u; } bits{score + 0.0};
  const uint64_t order = bits.u & (uint64_t{1} << 63) ? ~bits.u : bits.u | (uint64_t{1} << 63);
  return ~order;
}
template <class T>
struct ScoreKey;
template <>
struct ScoreKey<float> {
  using type = uint32_t;
};
template <>
struct ScoreKey<double> {
  using type = uint64_t;
};
template <class Key>
constexpr Key kNobody = static_cast<Key>(~Key(0));

template <class Key>
struct CountCandidates {
  Sorted<Key> sorted;
  int64_t n;
  int32_t* count;
  __device__ void operator()(int64_t i) const {  // i <= n: the boundary between candidates and the others
    const bool here = i == n || sorted.key[i] == kNobody<Key>;
    const bool before = i == 0 || sorted.key[i - 1] != kNobody<Key>;
    if (here && before) *count = static_cast<int32_t>(i);
  }
};

}  // namespace tenfold::device
