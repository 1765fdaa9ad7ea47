// The nearest points of several queries at once, one query a lane. Points come as rows: the squared distance of one
// point to every query. Rows are collected and sorted together by a network, which has no branches.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/vec.h"

TENFOLD_BEGIN

// ---- keys ----------------------------------------------------------------------------------------------

// Keys of kWidth<T> queries: distance and number of a point, ordered by distance, then number. A slice is what the
// network works on at a time.
template <class T>
struct Keys;

// Both in one double: a distance is not negative, so its bits, taken as those of a double's upper half, keep its order,
// and the number follows below. Raised by one exponent, no key is a denormal number.
template <>
struct Keys<float> {
  static constexpr int kSlices = 2;
  static constexpr int32_t kRaise = 0x00100000;
  using Slice = vdouble;

  static Slice none() {
    const int64_t key = (int64_t{0x7f800000 + kRaise} << 32) | 0xffffffff;  // infinity, -1
    return (vdouble)(vlong{} + key);
  }
  static void make(vfloat dist2, int32_t number, Slice* slices) {
    vlong first, second;
    vzip(vset(number), (vint)dist2 + kRaise, first, second);
    slices[0] = (vdouble)first;
    slices[1] = (vdouble)second;
  }
  static Slice lower(Slice a, Slice b) { return vmin(a, b); }
  static void exchange(Slice& a, Slice& b) {
    const Slice low = vmin(a, b);
    b = vmax(a, b);
    a = low;
  }
  // What the lanes of a row hold.
  static void read(const Slice& slice, int s, float* dist2, int32_t* number) {
    uint64_t key[kWidth<double>];
    std::memcpy(key, &slice, sizeof key);
    for (int w = 0; w < kWidth<double>; ++w) {
      const int32_t bits = static_cast<int32_t>(key[w] >> 32) - kRaise;
      std::memcpy(dist2 + lane_of_word(s, w), &bits, sizeof bits);
      number[lane_of_word(s, w)] = static_cast<int32_t>(key[w]);
    }
  }
};

template <>
struct Keys<double> {
  static constexpr int kSlices = 1;
  struct Slice {
    vdouble dist2;
    vlong number;
  };

  static Slice none() { return {vset(std::numeric_limits<double>::infinity()), vlong{} - 1}; }
  static void make(vdouble dist2, int32_t number, Slice* slices) { slices[0] = {dist2, vlong{} + int64_t{number}}; }
  static vlong before(const Slice& a, const Slice& b) {
    return (a.dist2 < b.dist2) | ((a.dist2 == b.dist2) & (a.number < b.number));
  }
  static Slice lower(const Slice& a, const Slice& b) {
    const vlong first = before(a, b);
    return {first ? a.dist2 : b.dist2, first ? a.number : b.number};
  }
  static void exchange(Slice& a, Slice& b) {
    const vlong first = before(a, b);
    const Slice x = a, y = b;
    a = {first ? x.dist2 : y.dist2, first ? x.number : y.number};
    b = {first ? y.dist2 : x.dist2, first ? y.number : x.number};
  }
  static void read(const Slice& slice, int, double* dist2, int32_t* number) {
    vstore(dist2, slice.dist2);
    for (int w = 0; w < kWidth<double>; ++w) number[w] = static_cast<int32_t>(slice.number[w]);
  }
};

// ---- networks ------------------------------------------------------------------------------------------

// Unrolled, so that rows live in registers.
#define TENFOLD_INLINE __attribute__((always_inline)) static inline

// Batcher's odd-even merge of the sorted halves of [low, low + kSize), of which every kStep-th counts.
template <class T, int kLow, int kSize, int kStep>
TENFOLD_INLINE void merge_halves(typename Keys<T>::Slice* a) {
  constexpr int kNext = 2 * kStep;
  if constexpr (kNext < kSize) {
    merge_halves<T, kLow, kSize, kNext>(a);
    merge_halves<T, kLow + kStep, kSize, kNext>(a);
#pragma GCC unroll 16
    for (int i = kLow + kStep; i + kStep < kLow + kSize; i += kNext) Keys<T>::exchange(a[i], a[i + kStep]);
  } else {
    Keys<T>::exchange(a[kLow], a[kLow + kStep]);
  }
}

template <class T, int kLow, int kSize>
TENFOLD_INLINE void merge_sort(typename Keys<T>::Slice* a) {
  if constexpr (kSize > 1) {
    merge_sort<T, kLow, kSize / 2>(a);
    merge_sort<T, kLow + kSize / 2, kSize / 2>(a);
    merge_halves<T, kLow, kSize, 1>(a);
  }
}

template <class T, int kSize>
TENFOLD_INLINE void merge_bitonic(typename Keys<T>::Slice* a) {
  if constexpr (kSize > 1) {
#pragma GCC unroll 16
    for (int i = 0; i < kSize / 2; ++i) Keys<T>::exchange(a[i], a[i + kSize / 2]);
    merge_bitonic<T, kSize / 2>(a);
    merge_bitonic<T, kSize / 2>(a + kSize / 2);
  }
}

#undef TENFOLD_INLINE

// Sorts kSize rows, and kSize that rise and then fall, in memory: compiled once for all users.
template <class T, int kSize>
__attribute__((noinline)) void sort_rows(typename Keys<T>::Slice* rows) {
  merge_sort<T, 0, kSize>(rows);
}
template <class T, int kSize>
__attribute__((noinline)) void sort_bitonic(typename Keys<T>::Slice* rows) {
  merge_bitonic<T, kSize>(rows);
}

// ---- the nearest so far --------------------------------------------------------------------------------

// The kKept nearest of every lane, a power of two.
template <class T, int kKept>
class Nearest {
 public:
  static constexpr int kBatch = kKept < 16 ? kKept : 16;

  void clear() {
    rows_ = 0;
    for (auto& slice : kept_)
      for (auto& row : slice) row = Keys<T>::none();
  }
  // True when the batch is full: `merge` must follow.
  bool add(vec<T> dist2, int32_t number) {
    typename Keys<T>::Slice row[kSlices];
    Keys<T>::make(dist2, number, row);
    for (int s = 0; s < kSlices; ++s) batch_[s][rows_] = row[s];
    return ++rows_ == kBatch;
  }
  void merge() {
    if (rows_ == 0) return;
    for (int s = 0; s < kSlices; ++s) {
      for (int i = rows_; i < kBatch; ++i) batch_[s][i] = Keys<T>::none();
      merge_slice(kept_[s], batch_[s]);
    }
    rows_ = 0;
  }
  // Entry j, from 0, of all lanes; what is missing, or too far for T, is (infinity, -1).
  void read(int j, T* dist2, int32_t* number) const {
    for (int s = 0; s < kSlices; ++s) Keys<T>::read(kept_[s][j], s, dist2, number);
    for (int i = 0; i < kWidth<T>; ++i) number[i] = dist2[i] <= std::numeric_limits<T>::max() ? number[i] : -1;
  }

 private:
  using Slice = typename Keys<T>::Slice;
  static constexpr int kSlices = Keys<T>::kSlices;
  static constexpr bool kInRegisters = sizeof(T) == sizeof(float);  // doubles would not fit

  static void merge_slice(Slice* kept, Slice* batch) {
    Slice* last = kept + (kKept - kBatch);
    if constexpr (kInRegisters) {
      Slice a[kBatch];
      for (int i = 0; i < kBatch; ++i) a[i] = batch[i];
      merge_sort<T, 0, kBatch>(a);
      for (int i = 0; i < kBatch; ++i) last[i] = Keys<T>::lower(last[i], a[kBatch - 1 - i]);
    } else {
      sort_rows<T, kBatch>(batch);
      for (int i = 0; i < kBatch; ++i) last[i] = Keys<T>::lower(last[i], batch[kBatch - 1 - i]);
    }
    for (int d = kKept / 2; d >= kBatch; d /= 2)
      for (int first = 0; first < kKept; first += 2 * d)
        for (int i = first; i < first + d; ++i) Keys<T>::exchange(kept[i], kept[i + d]);
    for (int first = 0; first < kKept; first += kBatch) {
      if constexpr (kInRegisters) {
        Slice b[kBatch];
        for (int i = 0; i < kBatch; ++i) b[i] = kept[first + i];
        merge_bitonic<T, kBatch>(b);
        for (int i = 0; i < kBatch; ++i) kept[first + i] = b[i];
      } else {
        sort_bitonic<T, kBatch>(kept + first);
      }
    }
  }

  Slice kept_[kSlices][kKept];
  Slice batch_[kSlices][kBatch];
  int rows_ = 0;
};

TENFOLD_END
