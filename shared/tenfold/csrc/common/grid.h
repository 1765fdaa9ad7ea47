// A counting-sort grid of points: cells of one x-row lie next to each other, so a box of cells is a few runs.
//
// Exactness. The cell of a coordinate, c(p) = floor(clamp(fl(p * inv))), never decreases with p: every step
// (correctly rounded product with a positive constant, clamp, floor) is monotone. A search for all points
// with a <= p <= b therefore visits c(a) ... c(b) and loses nothing to rounding, whatever the magnitude;
// rounding only decides how evenly points spread over cells. Cells count from 0, not from the lowest point,
// so that one far outlier does not take the resolution away from the others.
//
// With few enough cells in the bounding box the table is dense. Otherwise a row (y, z) starts at a hashed
// place of a table of about 2 N buckets and its x cells follow it, wrapping around: runs stay contiguous, and
// foreign points that share a bucket cost time only. Rows may overlap, so a point can be met twice.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/isa.h"

TENFOLD_BEGIN

constexpr int kTile = 256;        // points converted at a time: the three columns stay in the L1 cache
constexpr int kGridBlock = 64;    // sorted points that share a bounding box
constexpr int kBlocksBehind = 16;  // readable entries behind the last block
constexpr int kMinBuckets = 64;

template <class T>
static inline bool finite3(const T* p) {
  return std::isfinite(p[0]) && std::isfinite(p[1]) && std::isfinite(p[2]);
}

static inline bool finite_bits(float v) {
  uint32_t u;
  std::memcpy(&u, &v, sizeof u);
  return (u & 0x7f800000u) != 0x7f800000u;
}
static inline bool finite_bits(double v) {
  uint64_t u;
  std::memcpy(&u, &v, sizeof u);
  return (u & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

template <class T>
static inline bool all_finite(const T* v, int64_t count) {
  int bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= !finite_bits(v[i]);
  return bad == 0;
}

// First of n rows of three that has a non-finite entry, or -1.
template <class T>
static inline int64_t first_bad_row(const T* xyz, int64_t n) {
  if (all_finite(xyz, 3 * n)) return -1;
  int64_t i = 0;
  while (finite3(xyz + 3 * i)) ++i;
  return i;
}

template <class T>
static inline void deinterleave(const T* __restrict xyz, int n, T* __restrict x, T* __restrict y, T* __restrict z) {
  for (int i = 0; i < n; ++i) {
    x[i] = xyz[3 * i];
    y[i] = xyz[3 * i + 1];
    z[i] = xyz[3 * i + 2];
  }
}

template <class T>
static inline int32_t cell_of(T p, T inv) {
  constexpr T kEnd = T(1 << 29);
  T t = p * inv;
  t = t < -kEnd ? -kEnd : t;
  t = t > kEnd ? kEnd : t;
  const int32_t c = static_cast<int32_t>(t);
  return c - (static_cast<T>(c) > t);
}

// 1 / size, kept finite and positive so that 0 and infinity map to a cell as well.
template <class T>
static inline T inverse_size(T size) {
  const T inv = T(1) / size;
  if (!(inv <= std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  return inv < std::numeric_limits<T>::min() ? std::numeric_limits<T>::min() : inv;
}

// Largest table for n points: a power of two in (1.25 n, 2.5 n].
static inline int64_t table_size(int64_t n) {
  int64_t size = kMinBuckets;
  while (size * 4 <= 5 * n && size < (int64_t{1} << 30)) size *= 2;
  return size;
}

template <class T>
struct Cells {
  T inv[3];
  int32_t low[3];    // first cell of each axis
  int32_t count[3];  // cells of each axis
  uint32_t mask;     // all ones: dense
  int64_t buckets;

  bool hashed() const { return mask != UINT32_MAX; }

  // Cells of the box [lo, hi]; a dense table where it has at most `room` of them, `room` a power of two.
  void cover(const T* lo, const T* hi, const T* inverse, int64_t room) {
    double total = 1;
    for (int a = 0; a < 3; ++a) {
      inv[a] = inverse[a];
      low[a] = cell_of(lo[a], inv[a]);
      count[a] = cell_of(hi[a], inv[a]) - low[a] + 1;
      total *= count[a];
    }
    const bool dense = total <= static_cast<double>(room);
    mask = dense ? UINT32_MAX : static_cast<uint32_t>(room - 1);
    buckets = dense ? static_cast<int64_t>(total) : room;
  }

  // Puts everything into one cell.
  void unite() {
    for (int a = 0; a < 3; ++a) {
      inv[a] = 0;
      low[a] = 0;
      count[a] = 1;
    }
    buckets = 1;
  }

  static uint32_t mix(int32_t cy, int32_t cz) {
    uint32_t h = (static_cast<uint32_t>(cy) * 0x9E3779B1u) ^ (static_cast<uint32_t>(cz) * 0x85EBCA77u);
    h ^= h >> 15;
    return h * 0x2C1B3C6Du >> 2;
  }
  uint32_t dense_row(int32_t cy, int32_t cz) const {
    const uint32_t row = static_cast<uint32_t>(cz - low[2]) * static_cast<uint32_t>(count[1]) +
                         static_cast<uint32_t>(cy - low[1]);
    return row * static_cast<uint32_t>(count[0]) - static_cast<uint32_t>(low[0]);
  }
  // Adding cx and masking gives the bucket of cell (cx, cy, cz).
  uint32_t row(int32_t cy, int32_t cz) const { return hashed() ? mix(cy, cz) : dense_row(cy, cz); }

  // Buckets of n points of the box that `cover` was given.
  void buckets_of(const T* x, const T* y, const T* z, int n, int32_t* bucket) const {
    if (hashed()) {
      for (int i = 0; i < n; ++i)
        bucket[i] = static_cast<int32_t>(
            (mix(cell_of(y[i], inv[1]), cell_of(z[i], inv[2])) + static_cast<uint32_t>(cell_of(x[i], inv[0]))) & mask);
    } else {
      for (int i = 0; i < n; ++i)
        bucket[i] = static_cast<int32_t>(dense_row(cell_of(y[i], inv[1]), cell_of(z[i], inv[2])) +
                                         static_cast<uint32_t>(cell_of(x[i], inv[0])));
    }
  }

  // Calls f(begin, end) for the one or two runs of sorted points that hold the cells xlo .. xhi of a row.
  template <class F>
  void runs(const int32_t* start, uint32_t row, int32_t xlo, int32_t xhi, F&& f) const {
    const int64_t length = int64_t{xhi} - xlo + 1;
    const int64_t first = (row + static_cast<uint32_t>(xlo)) & mask;
    if (first + length <= buckets) {
      f(start[first], start[first + length]);
    } else if (length >= buckets) {
      f(start[0], start[buckets]);
    } else {
      f(start[first], start[buckets]);
      f(start[0], start[first + length - buckets]);
    }
  }
};

// Turns counts, that of bucket b in start[b + 2], to places: the next free one of bucket b is start[b + 1]++,
// and once all are taken its range is start[b] .. start[b + 1].
static inline void sum_up(int32_t* start, int64_t buckets) {
  int32_t sum = 0;
  for (int64_t b = 2; b < buckets + 2; ++b) {
    sum += start[b];
    start[b] = sum;
  }
}

// Points sorted by bucket, ascending in index inside a bucket.
template <class T>
struct PointGrid {
  Cells<T> cells;
  int64_t size;     // finite points
  int32_t* start;   // buckets + 2
  T* column[3];     // coordinates
  int32_t* index;
  T* box_low[3];    // bounds of each block of kGridBlock sorted points
  T* box_high[3];
  int32_t* box_index;  // and its lowest index

  static int64_t blocks(int64_t n) { return (n + kGridBlock - 1) / kGridBlock; }

  void allocate(Scratch& scratch, int64_t n) {
    start = scratch.take<int32_t>(table_size(n) + 2);
    index = scratch.take<int32_t>(n);
    for (int a = 0; a < 3; ++a) {
      column[a] = scratch.take<T>(n);
      box_low[a] = scratch.take<T>(blocks(n) + kBlocksBehind);
      box_high[a] = scratch.take<T>(blocks(n) + kBlocksBehind);
    }
    box_index = scratch.take<int32_t>(blocks(n) + kBlocksBehind);
  }

  // Bounding box of the finite points; false where there is none.
  static bool bounds(const T* xyz, int64_t n, T* lo, T* hi) {
    constexpr int kWide = 48;  // a multiple of 3 and of every vector width
    T low[kWide], high[kWide];
    for (int j = 0; j < kWide; ++j) {
      low[j] = std::numeric_limits<T>::infinity();
      high[j] = -low[j];
    }
    int64_t i = 0;
    if (all_finite(xyz, 3 * n)) {
      for (; i + kWide / 3 <= n; i += kWide / 3) {
        const T* p = xyz + 3 * i;
        for (int j = 0; j < kWide; ++j) {
          low[j] = p[j] < low[j] ? p[j] : low[j];
          high[j] = p[j] > high[j] ? p[j] : high[j];
        }
      }
    }
    for (; i < n; ++i) {
      const T* p = xyz + 3 * i;
      if (!finite3(p)) continue;
      for (int a = 0; a < 3; ++a) {
        low[a] = p[a] < low[a] ? p[a] : low[a];
        high[a] = p[a] > high[a] ? p[a] : high[a];
      }
    }
    for (int a = 0; a < 3; ++a) {
      lo[a] = low[a];
      hi[a] = high[a];
      for (int j = a; j < kWide; j += 3) {
        lo[a] = low[j] < lo[a] ? low[j] : lo[a];
        hi[a] = high[j] > hi[a] ? high[j] : hi[a];
      }
    }
    return lo[0] <= hi[0];
  }

  // Sorts the points into the cells, which the caller has set up to cover all finite ones.
  void fill(const T* xyz, int64_t n) {
    Scratch scratch;
    int32_t* bucket = scratch.take<int32_t>(n);
    T x[kTile], y[kTile], z[kTile];
    size = n;
    for (int64_t i = 0; i < n; i += kTile) {
      const int count = static_cast<int>(n - i < kTile ? n - i : kTile);
      deinterleave(xyz + 3 * i, count, x, y, z);
      const bool finite = all_finite(xyz + 3 * i, 3 * count);
      if (!finite) {
        for (int j = 0; j < count; ++j)
          if (!finite3(xyz + 3 * (i + j))) x[j] = y[j] = z[j] = 0;
      }
      cells.buckets_of(x, y, z, count, bucket + i);
      if (!finite) {
        for (int j = 0; j < count; ++j) {
          if (finite3(xyz + 3 * (i + j))) continue;
          bucket[i + j] = -1;
          --size;
        }
      }
    }
    std::memset(start, 0, static_cast<size_t>(cells.buckets + 2) * sizeof(int32_t));
    for (int64_t i = 0; i < n; ++i)
      if (bucket[i] >= 0) ++start[bucket[i] + 2];
    sum_up(start, cells.buckets);
    for (int64_t i = 0; i < n; ++i) {
      if (bucket[i] < 0) continue;
      const int32_t place = start[bucket[i] + 1]++;
      for (int a = 0; a < 3; ++a) column[a][place] = xyz[3 * i + a];
      index[place] = static_cast<int32_t>(i);
    }
    bound_blocks();
  }

  void bound_blocks() {
    for (int64_t b = 0; b < blocks(size); ++b) {
      const int64_t begin = b * kGridBlock;
      const int64_t end = begin + kGridBlock < size ? begin + kGridBlock : size;
      for (int a = 0; a < 3; ++a) {
        T low = column[a][begin], high = low;
        for (int64_t i = begin; i < end; ++i) {
          low = column[a][i] < low ? column[a][i] : low;
          high = column[a][i] > high ? column[a][i] : high;
        }
        box_low[a][b] = low;
        box_high[a][b] = high;
      }
      int32_t lowest = index[begin];
      for (int64_t i = begin; i < end; ++i) lowest = index[i] < lowest ? index[i] : lowest;
      box_index[b] = lowest;
    }
  }
};

// The last i in [0, n) with first(i) <= value, for ascending `first` with first(0) <= value: which element a
// numbered task belongs to.
template <class F>
static inline int64_t last_not_above(int64_t n, int64_t value, F&& first) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (first(middle) <= value)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

TENFOLD_END
