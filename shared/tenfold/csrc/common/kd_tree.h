// Points sorted into the leaves of a kd-tree: boxes split at the middle of their longest side. Searches go
// through the leaves' boxes, kFan of them under a box of the level above; how points are split only decides
// how much work that saves.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/grid.h"
#include "common/vec.h"

TENFOLD_BEGIN

constexpr int kFan = 16;  // boxes under one of the next level

// Boxes as columns.
template <class T>
struct Boxes {
  T* low[3];
  T* high[3];

  void allocate(Scratch& scratch, int64_t count) {
    for (int a = 0; a < 3; ++a) {
      low[a] = scratch.take<T>(count);
      high[a] = scratch.take<T>(count);
    }
  }
  // A box infinitely far from everything.
  void close(int64_t i) {
    for (int a = 0; a < 3; ++a) {
      low[a][i] = std::numeric_limits<T>::infinity();
      high[a][i] = -low[a][i];
    }
  }
  void set(int64_t i, const T* l, const T* h) {
    for (int a = 0; a < 3; ++a) {
      low[a][i] = l[a];
      high[a][i] = h[a];
    }
  }
  // Box i of this level becomes the union of the boxes [first, end) of another.
  void unite(int64_t i, const Boxes& other, int64_t first, int64_t end) {
    close(i);
    for (int a = 0; a < 3; ++a) {
      for (int64_t j = first; j < end; ++j) {
        low[a][i] = other.low[a][j] < low[a][i] ? other.low[a][j] : low[a][i];
        high[a][i] = other.high[a][j] > high[a][i] ? other.high[a][j] : high[a][i];
      }
    }
  }
  // Squared gaps between the box [from, to] and the boxes [i, i + kWidth<T>), which never exceed the squared distance
  // computed for two points in them: the operations are the same, on component differences that are no larger, and
  // IEEE rounding is monotone.
  vec<T> gaps(int64_t i, const T* from, const T* to) const {
    vec<T> d[3];
    for (int a = 0; a < 3; ++a)
      d[a] = vmax(vmax(vload(low[a] + i) - to[a], from[a] - vload(high[a] + i)), vec<T>{});
    return (d[0] * d[0] + d[1] * d[1]) + d[2] * d[2];
  }
  vec<T> gaps(int64_t i, const T* q) const { return gaps(i, q, q); }
  // The same between box i and the points of the lanes.
  vec<T> gaps_to(int64_t i, const vec<T>* q) const {
    vec<T> d[3];
    for (int a = 0; a < 3; ++a)
      d[a] = vmax(vmax(low[a][i] - q[a], q[a] - high[a][i]), vec<T>{});
    return (d[0] * d[0] + d[1] * d[1]) + d[2] * d[2];
  }
};

template <class T>
class KdLeaves {
 public:
  T* column[3];    // coordinates of the points, leaf after leaf
  int32_t* index;  // their numbers, ascending inside a leaf
  Boxes<T> boxes;  // of the leaves
  int32_t* begin;  // first point of every leaf; begin[i] == begin[i + 1] for a closed one

  int64_t size() const { return size_; }      // finite points
  int64_t leaves() const { return leaves_; }  // a multiple of kFan; those behind the last are closed

  // Room for n points in leaves of at most `most`, 2 or more; the memory outlives `build`, which another thread may call.
  void allocate(Scratch& scratch, int64_t n, int most) {
    most_ = most;
    limit_ = n / (most < 16 ? most / 2 : 8) + 192;  // split by order, leaves hold at least half of `most`
    room_ = limit_ < n ? limit_ : n;
    for (T*& c : column) c = scratch.take<T>(n);
    index = scratch.take<int32_t>(n);
    boxes.allocate(scratch, room_ + kFan);
    begin = scratch.take<int32_t>(room_ + kFan + 1);
  }
  int64_t most_leaves() const { return room_ + kFan; }

  // Sorts the finite rows of n; the first `dims` of `columns` count, missing coordinates are 0.
  void build(const T* xyz, int64_t n, int64_t columns, int64_t dims) {
    size_ = collect(xyz, n, columns, dims);
    leaves_ = 0;
    if (size_ > 0) {
      Scratch temporary;
      for (T*& c : spare_) c = temporary.take<T>(size_ / 2 + 1);
      spare_index_ = temporary.take<int32_t>(size_ / 2 + 1);
      split(0, size_, 0);
    }
    begin[leaves_] = static_cast<int32_t>(size_);
    while (leaves_ % kFan != 0 || leaves_ == 0) {
      boxes.close(leaves_);
      begin[++leaves_] = static_cast<int32_t>(size_);
    }
  }

 private:
  static constexpr int kMostDepth = 40;
  static constexpr int64_t kSmall = 80;  // more than there can be parts that wait and are smaller than that

  int64_t collect(const T* xyz, int64_t n, int64_t columns, int64_t dims) {
    if (columns == 3 && dims == 3 && all_finite(xyz, 3 * n)) {
      for (int64_t i = 0; i < n; i += kTile) {
        const int part = static_cast<int>(n - i < kTile ? n - i : kTile);
        deinterleave(xyz + 3 * i, part, column[0] + i, column[1] + i, column[2] + i);
      }
      for (int64_t i = 0; i < n; ++i) index[i] = static_cast<int32_t>(i);
      return n;
    }
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
      const T* p = xyz + i * columns;
      if (!all_finite(p, dims)) continue;
      for (int64_t a = 0; a < 3; ++a) column[a][count] = a < dims ? p[a] : T(0);
      index[count++] = static_cast<int32_t>(i);
    }
    return count;
  }

  void bound(int64_t from, int64_t to, T* low, T* high) const {
    constexpr T kInf = std::numeric_limits<T>::infinity();
    for (int a = 0; a < 3; ++a) {
      const T* c = column[a];
      vec<T> least = vset(kInf), most = vset(-kInf);
      int64_t i = from;
      for (; i + kWidth<T> <= to; i += kWidth<T>) {
        least = vmin(vload(c + i), least);
        most = vmax(vload(c + i), most);
      }
      T l = -vtop(-least), h = vtop(most);
      for (; i < to; ++i) {
        l = c[i] < l ? c[i] : l;
        h = c[i] > h ? c[i] : h;
      }
      low[a] = l;
      high[a] = h;
    }
  }

  void split(int64_t from, int64_t to, int depth) {
    T low[3], high[3];
    bound(from, to, low, high);
    if (to - from <= most_) {
      boxes.set(leaves_, low, high);
      begin[leaves_++] = static_cast<int32_t>(from);
      return;
    }
    int axis = 0;
    for (int a = 1; a < 3; ++a)
      if (high[a] - low[a] > high[axis] - low[axis]) axis = a;
    // Very uneven clouds peel off few points at a time: beyond a depth, or where leaves become too many, points
    // are split by their order, as equal ones are.
    const bool by_order = !(high[axis] > low[axis]) || depth >= kMostDepth ||
                          leaves_ + 2 * (size_ - from) / most_ + kSmall >= limit_;
    int64_t place = from + (to - from) / 2;
    if (!by_order) {
      T middle = low[axis] / 2 + high[axis] / 2;
      if (!(middle > low[axis])) middle = high[axis];
      place = partition(from, to, axis, middle);
    }
    split(from, place, depth + 1);
    split(place, to, depth + 1);
  }

  // Puts the points below the middle first, both parts in their order, and returns where the others begin. The
  // larger part is packed in place, the smaller one waits in the spare columns.
  int64_t partition(int64_t from, int64_t to, int axis, T middle) {
    const T* key = column[axis];
    int64_t below = 0;
    for (int64_t i = from; i < to; ++i) below += key[i] < middle;
    const bool left_stays = 2 * below >= to - from;
    int64_t at = from, aside = 0;
    int64_t i = from;
    if constexpr (sizeof(T) == sizeof(int32_t)) {
      for (; i + kLanes <= to; i += kLanes) {
        const lane_mask left = vlt(vload(key + i), vset(middle));
        const lane_mask stay = left_stays ? left : kAllLanes & ~left;
        for (int a = 0; a < 3; ++a) {
          const vint bits = vload(reinterpret_cast<const int32_t*>(column[a] + i));
          vcompress(reinterpret_cast<int32_t*>(column[a] + at), bits, stay);
          vcompress(reinterpret_cast<int32_t*>(spare_[a] + aside), bits, kAllLanes & ~stay);
        }
        const vint number = vload(index + i);
        at += vcompress(index + at, number, stay);
        aside += vcompress(spare_index_ + aside, number, kAllLanes & ~stay);
      }
    }
    for (; i < to; ++i) {
      const bool stay = (key[i] < middle) == left_stays;
      const T p[3] = {column[0][i], column[1][i], column[2][i]};
      const int32_t number = index[i];
      for (int a = 0; a < 3; ++a) (stay ? column[a] + at : spare_[a] + aside)[0] = p[a];
      (stay ? index + at : spare_index_ + aside)[0] = number;
      at += stay;
      aside += !stay;
    }
    const int64_t place = from + below;
    for (int a = 0; a < 3; ++a) gather_parts(column[a], spare_[a], from, to, place, left_stays);
    gather_parts(index, spare_index_, from, to, place, left_stays);
    return place;
  }

  template <class V>
  static void gather_parts(V* to_column, const V* spare, int64_t from, int64_t to, int64_t place, bool left_stays) {
    const auto bytes = [](int64_t count) { return static_cast<size_t>(count) * sizeof(V); };
    if (left_stays) {
      std::memcpy(to_column + place, spare, bytes(to - place));
    } else {
      std::memmove(to_column + place, to_column + from, bytes(to - place));
      std::memcpy(to_column + from, spare, bytes(place - from));
    }
  }

  T* spare_[3];
  int32_t* spare_index_;
  int64_t size_ = 0;
  int64_t leaves_ = 0;
  int64_t room_ = 0;
  int64_t limit_ = 0;
  int most_ = 0;
};

TENFOLD_END
