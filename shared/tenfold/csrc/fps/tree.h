// Points in the leaves of a kd-tree, with their distance to the nearest chosen point. A leaf whose squared gap to
// a chosen point reaches its largest distance cannot change, whatever way the points were split.
#pragma once
#include <cstdint>
#include <limits>

#include "common/kd_tree.h"

TENFOLD_BEGIN

template <class T>
class FpsTree {
 public:
  // n rows, of which at least one is finite.
  FpsTree(Scratch& scratch, const T* xyz, int64_t n, int64_t columns, int64_t dims) {
    constexpr int kLeaf = 64;
    points_.allocate(scratch, n, kLeaf);
    points_.build(xyz, n, columns, dims);
    distance_ = scratch.take<T>(points_.size());
    for (int64_t i = 0; i < points_.size(); ++i) distance_[i] = kInf;
    const int64_t leaves = points_.leaves();
    top_ = scratch.take<T>(leaves);
    arg_ = scratch.take<int32_t>(leaves);
    for (int64_t i = 0; i < leaves; ++i) {
      top_[i] = points_.begin[i] < points_.begin[i + 1] ? kInf : -kInf;
      arg_[i] = -1;
    }
    const int64_t nodes = leaves / kFan;
    upper_count_ = (nodes + kFan - 1) / kFan * kFan;
    upper_.allocate(scratch, upper_count_);
    upper_top_ = scratch.take<T>(upper_count_);
    for (int64_t u = 0; u < upper_count_; ++u) {
      const int64_t first = u * kFan;
      upper_.unite(u, points_.boxes, first, u < nodes ? first + kFan : first);
      upper_top_[u] = u < nodes ? kInf : -kInf;
    }
  }

  // Lowers the distances to those from q; returns the lowest number among the farthest points.
  int32_t choose(const T* q) {
    for (int64_t u = 0; u < upper_count_; u += kWidth<T>)
      for (lane_mask m = vlt(upper_.gaps(u, q), vload(upper_top_ + u)); m != 0; m &= m - 1)
        update(u + __builtin_ctz(m), q);
    return farthest();
  }

 private:
  static constexpr T kInf = std::numeric_limits<T>::infinity();

  void update(int64_t node, const T* q) {
    const int64_t first = node * kFan;
    for (int64_t i = first; i < first + kFan; i += kWidth<T>)
      for (lane_mask m = vlt(points_.boxes.gaps(i, q), vload(top_ + i)); m != 0; m &= m - 1)
        update_leaf(i + __builtin_ctz(m), q);
    vec<T> top = vload(top_ + first);
    for (int64_t i = first + kWidth<T>; i < first + kFan; i += kWidth<T>) top = vmax(top, vload(top_ + i));
    upper_top_[node] = vtop(top);
  }

  void update_leaf(int64_t leaf, const T* q) {
    using Index = decltype(viota_of<T>()[0] + 0);
    const int64_t end = points_.begin[leaf + 1];
    const auto lowered = [&](int64_t i) {
      const vec<T> dx = vload(points_.column[0] + i) - q[0];
      const vec<T> dy = vload(points_.column[1] + i) - q[1];
      const vec<T> dz = vload(points_.column[2] + i) - q[2];
      return vmin((dx * dx + dy * dy) + dz * dz, vload(distance_ + i));
    };
    vec<T> top = vset(-kInf);
    int64_t i = points_.begin[leaf];
    for (; i + kWidth<T> <= end; i += kWidth<T>) {
      const vec<T> d = lowered(i);
      vstore(distance_ + i, d);
      top = vmax(d, top);
    }
    if (i < end) {  // the lanes behind belong to the next leaf
      const vec_index<T> inside = viota_of<T>() < (vec_index<T>{} + static_cast<Index>(end - i));
      const vec<T> d = lowered(i);
      vstore(distance_ + i, inside ? d : vload(distance_ + i));
      top = vmax(inside ? d : vset(-kInf), top);
    }
    top_[leaf] = vtop(top);
    arg_[leaf] = -1;
  }

  int32_t farthest() {
    vec<T> most = vload(upper_top_);
    for (int64_t u = kWidth<T>; u < upper_count_; u += kWidth<T>) most = vmax(most, vload(upper_top_ + u));
    const T top = vtop(most);
    int32_t best = INT32_MAX;
    for (int64_t u = 0; u < upper_count_; u += kWidth<T>) {
      for (lane_mask m = vge(vload(upper_top_ + u), vset(top)); m != 0; m &= m - 1) {
        const int64_t first = (u + __builtin_ctz(m)) * kFan;
        for (int64_t i = first; i < first + kFan; i += kWidth<T>) {
          for (lane_mask l = vge(vload(top_ + i), vset(top)); l != 0; l &= l - 1) {
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
    int64_t i = points_.begin[leaf];
    lane_mask m = 0;
    for (; (m = vge(vload(distance_ + i), vset(top))) == 0;) i += kWidth<T>;
    arg_[leaf] = points_.index[i + __builtin_ctz(m)];
    return arg_[leaf];
  }

  KdLeaves<T> points_;
  T* distance_;
  T* top_;         // largest distance in each leaf
  int32_t* arg_;   // number of the point that has it, or -1: not looked for yet
  Boxes<T> upper_;
  T* upper_top_;
  int64_t upper_count_;
};

TENFOLD_END
