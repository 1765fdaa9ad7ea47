// Points in the leaves of a kd-tree, with their distance to the nearest chosen point.
//
// Exactness. The bound of a box is the squared gap between the chosen point and the box, with the operations
// of the distance itself on component differences that are no larger. IEEE rounding is monotone, so the bound
// never exceeds the distance computed for a point of the box: a leaf whose bound reaches its maximum cannot
// change, whatever way the points were split.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/vec.h"

TENFOLD_BEGIN

constexpr int kLeaf = 64;     // most points of a leaf
constexpr int kFan = 16;      // leaves under one node of the upper level
constexpr int kMostDepth = 40;

// Boxes and the largest distance inside each, as columns.
template <class T>
struct Boxes {
  T* low[3];
  T* high[3];
  T* top;

  void allocate(Scratch& scratch, int64_t count) {
    for (int a = 0; a < 3; ++a) {
      low[a] = scratch.take<T>(count);
      high[a] = scratch.take<T>(count);
    }
    top = scratch.take<T>(count);
  }
  // A box that is never reached.
  void close(int64_t i) {
    for (int a = 0; a < 3; ++a) low[a][i] = high[a][i] = 0;
    top[i] = -std::numeric_limits<T>::infinity();
  }
  // Which of the boxes [i, i + kWidth<T>) can change when q is chosen.
  lane_mask reached(int64_t i, const T* q) const {
    vec<T> d[3];
    for (int a = 0; a < 3; ++a) {
      const vec<T> outside = vmax(vload(low[a] + i) - q[a], q[a] - vload(high[a] + i));
      d[a] = vmax(outside, vec<T>{});
    }
    return vlt((d[0] * d[0] + d[1] * d[1]) + d[2] * d[2], vload(top + i));
  }
};

template <class T>
class FpsTree {
 public:
  // Columns of n >= 1 finite points with their ascending numbers; the tree takes the arrays over.
  struct Points {
    T* column[3];
    int32_t* index;

    void allocate(Scratch& scratch, int64_t n) {
      for (T*& c : column) c = scratch.take<T>(n);
      index = scratch.take<int32_t>(n);
    }
  };

  void build(Scratch& scratch, const Points& points, int64_t n) {
    points_ = points;
    n_ = n;
    room_ = n / 8 + 64;
    leaves_.allocate(scratch, room_ + kFan);
    begin_ = scratch.take<int32_t>(room_ + kFan + 1);
    arg_ = scratch.take<int32_t>(room_ + kFan);
    distance_ = scratch.take<T>(n);
    for (int64_t i = 0; i < n; ++i) distance_[i] = std::numeric_limits<T>::infinity();
    {
      Scratch temporary;
      Points other;
      other.allocate(temporary, n);
      split(points_, other, 0, n, 0);
    }
    begin_[count_] = static_cast<int32_t>(n);
    while (count_ % kFan != 0) {
      leaves_.close(count_);
      begin_[++count_] = static_cast<int32_t>(n);
    }
    build_upper(scratch);
  }

  // Lowers the distances to those from q; returns the lowest number among the farthest points.
  int32_t choose(const T* q) {
    for (int64_t u = 0; u < upper_count_; u += kWidth<T>) {
      for (lane_mask m = upper_.reached(u, q); m != 0; m &= m - 1) update(u + __builtin_ctz(m), q);
    }
    return farthest();
  }

 private:
  // ---- building ------------------------------------------------------------------------------------------

  void bound(const Points& p, int64_t begin, int64_t end, T* low, T* high) const {
    constexpr T kInf = std::numeric_limits<T>::infinity();
    for (int a = 0; a < 3; ++a) {
      const T* c = p.column[a];
      vec<T> least = vset(kInf), most = vset(-kInf);
      int64_t i = begin;
      for (; i + kWidth<T> <= end; i += kWidth<T>) {
        least = vmin(vload(c + i), least);
        most = vmax(vload(c + i), most);
      }
      T l = -vtop(-least), h = vtop(most);
      for (; i < end; ++i) {
        l = c[i] < l ? c[i] : l;
        h = c[i] > h ? c[i] : h;
      }
      low[a] = l;
      high[a] = h;
    }
  }

  // Splits [begin, end) of `from` until leaves are small; they end up in points_, `other` is scratch.
  void split(const Points& from, const Points& other, int64_t begin, int64_t end, int depth) {
    T low[3], high[3];
    bound(from, begin, end, low, high);
    if (end - begin <= kLeaf) {
      add_leaf(from, begin, end, low, high);
      return;
    }
    int axis = 0;
    for (int a = 1; a < 3; ++a)
      if (high[a] - low[a] > high[axis] - low[axis]) axis = a;
    // Very uneven clouds peel off few points at a time: beyond a depth, or where leaves become too many, points
    // are split by their order, as equal ones are.
    const bool by_order = !(high[axis] > low[axis]) || depth >= kMostDepth ||
                          count_ + 4 * (n_ - begin) / kLeaf + kFan >= room_;
    if (by_order) {
      const int64_t middle = begin + (end - begin) / 2;
      split(from, other, begin, middle, depth + 1);
      split(from, other, middle, end, depth + 1);
      return;
    }
    T middle = low[axis] / 2 + high[axis] / 2;
    if (!(middle > low[axis])) middle = high[axis];
    const int64_t place = begin + partition(from, other, begin, end, axis, middle);
    split(other, from, begin, place, depth + 1);
    split(other, from, place, end, depth + 1);
  }

  void add_leaf(const Points& from, int64_t begin, int64_t end, const T* low, const T* high) {
    for (int a = 0; a < 3; ++a) {
      leaves_.low[a][count_] = low[a];
      leaves_.high[a][count_] = high[a];
      if (from.column[a] != points_.column[a])
        std::memcpy(points_.column[a] + begin, from.column[a] + begin, static_cast<size_t>(end - begin) * sizeof(T));
    }
    if (from.index != points_.index)
      std::memcpy(points_.index + begin, from.index + begin, static_cast<size_t>(end - begin) * sizeof(int32_t));
    leaves_.top[count_] = std::numeric_limits<T>::infinity();
    arg_[count_] = -1;
    begin_[count_++] = static_cast<int32_t>(begin);
  }

  // Writes the points below the middle first, both parts in their order; returns how many are below.
  static int64_t partition(const Points& from, const Points& to, int64_t begin, int64_t end, int axis, T middle) {
    const T* key = from.column[axis];
    int64_t below = 0;
    for (int64_t i = begin; i < end; ++i) below += key[i] < middle;
    int64_t left = begin, right = begin + below;
    int64_t i = begin;
    if constexpr (sizeof(T) == sizeof(int32_t)) {
      // A vector is written whole, so it must end inside its part.
      for (; i + kLanes <= end && left + kLanes <= begin + below && right + kLanes <= end; i += kLanes) {
        const lane_mask m = vlt(vload(key + i), vset(middle));
        for (int a = 0; a < 3; ++a) {
          const vint bits = vload(reinterpret_cast<const int32_t*>(from.column[a] + i));
          vcompress(reinterpret_cast<int32_t*>(to.column[a] + left), bits, m);
          vcompress(reinterpret_cast<int32_t*>(to.column[a] + right), bits, kAllLanes & ~m);
        }
        const vint number = vload(from.index + i);
        left += vcompress(to.index + left, number, m);
        right += vcompress(to.index + right, number, kAllLanes & ~m);
      }
    }
    for (; i < end; ++i) {
      int64_t& at = key[i] < middle ? left : right;
      for (int a = 0; a < 3; ++a) to.column[a][at] = from.column[a][i];
      to.index[at++] = from.index[i];
    }
    return below;
  }

  void build_upper(Scratch& scratch) {
    const int64_t nodes = count_ / kFan;
    upper_count_ = (nodes + kFan - 1) / kFan * kFan;
    upper_.allocate(scratch, upper_count_);
    for (int64_t u = 0; u < upper_count_; ++u) {
      upper_.close(u);
      for (int64_t i = u * kFan; u < nodes && i < (u + 1) * kFan; ++i) {
        if (begin_[i] == begin_[i + 1]) continue;
        const bool first = i == u * kFan;
        for (int a = 0; a < 3; ++a) {
          T& low = upper_.low[a][u];
          T& high = upper_.high[a][u];
          low = first || leaves_.low[a][i] < low ? leaves_.low[a][i] : low;
          high = first || leaves_.high[a][i] > high ? leaves_.high[a][i] : high;
        }
        upper_.top[u] = leaves_.top[i];
      }
    }
  }

  // ---- choosing ------------------------------------------------------------------------------------------

  void update(int64_t node, const T* q) {
    const int64_t first = node * kFan;
    for (int64_t i = first; i < first + kFan; i += kWidth<T>)
      for (lane_mask m = leaves_.reached(i, q); m != 0; m &= m - 1) update_leaf(i + __builtin_ctz(m), q);
    vec<T> top = vload(leaves_.top + first);
    for (int64_t i = first + kWidth<T>; i < first + kFan; i += kWidth<T>) top = vmax(top, vload(leaves_.top + i));
    upper_.top[node] = vtop(top);
  }

  void update_leaf(int64_t leaf, const T* q) {
    constexpr T kInf = std::numeric_limits<T>::infinity();
    const int64_t end = begin_[leaf + 1];
    const auto lowered = [&](int64_t i) {
      const vec<T> dx = vload(points_.column[0] + i) - q[0];
      const vec<T> dy = vload(points_.column[1] + i) - q[1];
      const vec<T> dz = vload(points_.column[2] + i) - q[2];
      return vmin((dx * dx + dy * dy) + dz * dz, vload(distance_ + i));
    };
    vec<T> top = vset(-kInf);
    int64_t i = begin_[leaf];
    for (; i + kWidth<T> <= end; i += kWidth<T>) {
      const vec<T> d = lowered(i);
      vstore(distance_ + i, d);
      top = vmax(d, top);
    }
    if (i < end) {  // the lanes behind belong to the next leaf
      const vec_index<T> inside = viota_of<T>() < (vec_index<T>{} + static_cast<decltype(viota_of<T>()[0] + 0)>(end - i));
      const vec<T> d = lowered(i);
      vstore(distance_ + i, inside ? d : vload(distance_ + i));
      top = vmax(inside ? d : vset(-kInf), top);
    }
    leaves_.top[leaf] = vtop(top);
    arg_[leaf] = -1;
  }

  int32_t farthest() {
    vec<T> most = vload(upper_.top);
    for (int64_t u = kWidth<T>; u < upper_count_; u += kWidth<T>) most = vmax(most, vload(upper_.top + u));
    const T top = vtop(most);
    int32_t best = INT32_MAX;
    for (int64_t u = 0; u < upper_count_; u += kWidth<T>) {
      for (lane_mask m = vge(vload(upper_.top + u), vset(top)); m != 0; m &= m - 1) {
        const int64_t first = (u + __builtin_ctz(m)) * kFan;
        for (int64_t i = first; i < first + kFan; i += kWidth<T>) {
          for (lane_mask l = vge(vload(leaves_.top + i), vset(top)); l != 0; l &= l - 1) {
            const int32_t number = farthest_of(i + __builtin_ctz(l), top);
            best = number < best ? number : best;
          }
        }
      }
    }
    return best;
  }

  // The lowest number in a leaf that attains its maximum, kept until the leaf changes.
  int32_t farthest_of(int64_t leaf, T top) {
    if (arg_[leaf] >= 0) return arg_[leaf];
    int64_t i = begin_[leaf];
    for (;; i += kWidth<T>) {
      const lane_mask m = vge(vload(distance_ + i), vset(top));
      if (m == 0) continue;
      i += __builtin_ctz(m);
      break;
    }
    arg_[leaf] = points_.index[i];
    return arg_[leaf];
  }

  Points points_;
  T* distance_ = nullptr;
  Boxes<T> leaves_;
  int32_t* begin_ = nullptr;
  int32_t* arg_ = nullptr;  // number of the farthest point of each leaf, or -1: not looked for yet
  int64_t n_ = 0;
  int64_t room_ = 0;        // for leaves
  int64_t count_ = 0;       // leaves, in the end a multiple of kFan
  Boxes<T> upper_;
  int64_t upper_count_ = 0;
};

TENFOLD_END
