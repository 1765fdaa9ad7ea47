// Sorting of short lists of int32 (row indices): vector networks for 16, 32 and 64 entries, merged for more.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/vec.h"

TENFOLD_BEGIN

constexpr int32_t kNoIndex = INT32_MAX;  // sorts behind every index

namespace network {

#if defined(__AVX512F__)
// The zero-masked forms: GCC 12 warns about the plain ones' undefined pass-through operand.
static inline vint imin(vint a, vint b) { return (vint)_mm512_maskz_min_epi32(0xffff, (__m512i)a, (__m512i)b); }
static inline vint imax(vint a, vint b) { return (vint)_mm512_maskz_max_epi32(0xffff, (__m512i)a, (__m512i)b); }
static inline vint permute(vint v, vint lane) {
  return (vint)_mm512_maskz_permutexvar_epi32(0xffff, (__m512i)lane, (__m512i)v);
}
// Smaller of a and b where the bit is 0, larger where it is 1.
template <int kBits>
static inline vint low_high(vint a, vint b) {
  return (vint)_mm512_mask_max_epi32((__m512i)imin(a, b), kBits, (__m512i)a, (__m512i)b);
}
#elif defined(__AVX2__)
static inline vint imin(vint a, vint b) { return (vint)_mm256_min_epi32((__m256i)a, (__m256i)b); }
static inline vint imax(vint a, vint b) { return (vint)_mm256_max_epi32((__m256i)a, (__m256i)b); }
static inline vint permute(vint v, vint lane) { return (vint)_mm256_permutevar8x32_epi32((__m256i)v, (__m256i)lane); }
template <int kBits>
static inline vint low_high(vint a, vint b) {
  return (vint)_mm256_blend_epi32((__m256i)imin(a, b), (__m256i)imax(a, b), kBits & 255);
}
#else
static inline vint imin(vint a, vint b) { return a < b ? a : b; }
static inline vint imax(vint a, vint b) { return a < b ? b : a; }
static inline vint permute(vint v, vint lane) {
  vint r;
  for (int i = 0; i < kLanes; ++i) r[i] = v[lane[i]];
  return r;
}
template <int kBits>
static inline vint low_high(vint a, vint b) {
  const vint high = {-(kBits & 1), -(kBits >> 1 & 1), -(kBits >> 2 & 1), -(kBits >> 3 & 1)};
  return high ? imax(a, b) : imin(a, b);
}
#endif

// Bit i is set where lane i has the bit `j` set: the upper partner of a comparison at distance j.
constexpr int upper_lanes(int j) {
  int bits = 0;
  for (int i = 0; i < kLanes; ++i)
    if (i & j) bits |= 1 << i;
  return bits;
}

// Compares lanes i and i ^ kFlip, the smaller goes to the lane whose bit kTop is 0.
template <int kFlip, int kTop>
__attribute__((always_inline)) static inline vint exchange(vint v) {
  return low_high<upper_lanes(kTop)>(v, permute(v, viota() ^ kFlip));
}

// Half-cleaners at distances kDistance, kDistance / 2 ... 1: sorts a bitonic sequence of 2 * kDistance entries.
template <int kDistance, int R>
__attribute__((always_inline)) static inline void clean(vint (&v)[R]) {
  if constexpr (kDistance >= kLanes) {
    constexpr int step = kDistance / kLanes;
    for (int r = 0; r < R; ++r) {
      if (r & step) continue;
      const vint low = imin(v[r], v[r + step]);
      v[r + step] = imax(v[r], v[r + step]);
      v[r] = low;
    }
  } else {
    for (int r = 0; r < R; ++r) v[r] = exchange<kDistance, kDistance>(v[r]);
  }
  if constexpr (kDistance > 1) clean<kDistance / 2>(v);
}

// Merges neighbouring sorted sequences of kSize / 2 entries into sorted ones of kSize.
template <int kSize, int R>
__attribute__((always_inline)) static inline void merge_pairs(vint (&v)[R]) {
  if constexpr (kSize <= kLanes) {
    for (int r = 0; r < R; ++r) v[r] = exchange<kSize - 1, kSize / 2>(v[r]);
  } else {
    constexpr int span = kSize / kLanes;
    for (int block = 0; block < R; block += span) {
      for (int r = 0; r < span / 2; ++r) {
        const vint a = v[block + r];
        const vint b = permute(v[block + span - 1 - r], viota() ^ (kLanes - 1));
        v[block + r] = imin(a, b);
        v[block + span - 1 - r] = permute(imax(a, b), viota() ^ (kLanes - 1));
      }
    }
  }
  if constexpr (kSize > 2) clean<kSize / 4>(v);
}

template <int kSize, int R>
__attribute__((always_inline)) static inline void sort_upto(vint (&v)[R]) {
  if constexpr (kSize > 2) sort_upto<kSize / 2>(v);
  merge_pairs<kSize>(v);
}

// Ascending over all R * kLanes entries.
template <int R>
static inline void sort(vint (&v)[R]) {
  sort_upto<R * kLanes>(v);
}

// best: the smallest entries of two sorted sequences of equal length, sorted.
template <int R>
static inline void keep_low(vint (&best)[R], const vint (&other)[R]) {
  for (int r = 0; r < R; ++r)
    best[r] = imin(best[r], permute(other[R - 1 - r], viota() ^ (kLanes - 1)));
  clean<R * kLanes / 2>(best);
}

}  // namespace network

// Sorts W entries in memory, where W is a multiple of kLanes.
template <int W>
static inline void sort_block(int32_t* a) {
  vint v[W / kLanes];
  for (int r = 0; r < W / kLanes; ++r) v[r] = vload(a + r * kLanes);
  network::sort(v);
  for (int r = 0; r < W / kLanes; ++r) vstore(a + r * kLanes, v[r]);
}

// Sorts a[0, n) ascending; a and buffer hold n rounded up to a multiple of 64 entries.
static inline void sort_indices(int32_t* a, int32_t* buffer, int64_t n) {
  constexpr int64_t kBlock = 64;
  const int64_t padded = (n + kBlock - 1) / kBlock * kBlock;
  for (int64_t i = n; i < padded; ++i) a[i] = kNoIndex;
  for (int64_t i = 0; i < padded; i += kBlock) sort_block<kBlock>(a + i);
  int32_t* from = a;
  int32_t* to = buffer;
  for (int64_t width = kBlock; width < padded; width *= 2) {
    for (int64_t begin = 0; begin < padded; begin += 2 * width) {
      const int64_t middle = begin + width < padded ? begin + width : padded;
      const int64_t end = middle + width < padded ? middle + width : padded;
      int64_t i = begin, j = middle;
      for (int64_t o = begin; o < end; ++o) {
        const bool left = j >= end || (i < middle && from[i] <= from[j]);
        to[o] = from[left ? i : j];
        i += left;
        j += !left;
      }
    }
    int32_t* swap = from;
    from = to;
    to = swap;
  }
  if (from != a) std::memcpy(a, from, static_cast<size_t>(n) * sizeof(int32_t));
}

TENFOLD_END
