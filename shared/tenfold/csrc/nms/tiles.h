// Tiles of the plane whose boxes are suppressed independently, with a serial pass for what their borders leave open.
//
// A box is decided inside its tile when no centre in another tile can belong to a box that overlaps it above the
// threshold, and no open box does. All others are open: no box that was decided as kept suppresses them (one of
// their tile would have, and one of another tile is too far away), so open boxes have only each other to fear.
#pragma once
#include <limits>

#include "common/arena.h"
#include "common/radix.h"
#include "nms/level_grid.h"

TENFOLD_BEGIN

struct Region {
  double x_low = -std::numeric_limits<double>::infinity();
  double x_high = std::numeric_limits<double>::infinity();
  double y_low = -std::numeric_limits<double>::infinity();
  double y_high = std::numeric_limits<double>::infinity();
  double threshold = 0;
  double widest = 0;
  double highest = 0;

  template <class T>
  void note_size(const Box<T>& b) {
    const double w = interval(b.x1, b.x2).size;
    const double h = interval(b.y1, b.y2).size;
    widest = w > widest ? w : widest;
    highest = h > highest ? h : highest;
  }

  // Whether every centre that may belong to an overlapping box lies in the region.
  template <class T>
  bool encloses(const Box<T>& b) const {
    const Interval x = interval(b.x1, b.x2);
    const Interval y = interval(b.y1, b.y2);
    const double rx = farthest_overlap(x, 0, widest, threshold);
    const double ry = farthest_overlap(y, 0, highest, threshold);
    return x.centre - rx >= x_low && x.centre + rx < x_high && y.centre - ry >= y_low && y.centre + ry < y_high;
  }
};

// Columns of equal population, each cut into tiles of equal population, estimated from a sample of the boxes.
class Tiling {
 public:
  static constexpr int kMostPerAxis = 64;

  // box_at(i) gives candidate i of `count`.
  template <class F>
  Tiling(int per_axis, int64_t count, F&& box_at) : per_axis_(per_axis) {
    Scratch scratch;
    const int64_t step = count / (kSamples * per_axis * per_axis) + 1;
    const int64_t sampled = (count + step - 1) / step;
    double* x = scratch.take<double>(sampled);
    double* y = scratch.take<double>(sampled);
    for (int64_t i = 0; i < sampled; ++i) {
      const auto b = box_at(i * step);
      x[i] = interval(b.x1, b.x2).centre;
      y[i] = interval(b.y1, b.y2).centre;
    }
    cut(x, sampled, x_cut_);
    double* inside = scratch.take<double>(sampled);
    for (int c = 0; c < per_axis_; ++c) {
      int64_t n = 0;
      for (int64_t i = 0; i < sampled; ++i)
        if (place(x_cut_, x[i]) == c) inside[n++] = y[i];
      cut(inside, n, y_cut_[c]);
    }
  }

  int tiles() const { return per_axis_ * per_axis_; }
  template <class T>
  int tile(const Box<T>& b) const {
    const int c = place(x_cut_, interval(b.x1, b.x2).centre);
    return c * per_axis_ + place(y_cut_[c], interval(b.y1, b.y2).centre);
  }
  // `r` with the bounds of the tile.
  Region region(int tile, Region r) const {
    const int c = tile / per_axis_;
    const int k = tile % per_axis_;
    if (c > 0) r.x_low = x_cut_[c - 1];
    if (c + 1 < per_axis_) r.x_high = x_cut_[c];
    if (k > 0) r.y_low = y_cut_[c][k - 1];
    if (k + 1 < per_axis_) r.y_high = y_cut_[c][k];
    return r;
  }

 private:
  static constexpr int64_t kSamples = 128;  // per tile

  // Values at which [low, cut) and [cut, high) part; n may be 0.
  void cut(const double* value, int64_t n, double* cuts) const {
    Scratch scratch;
    uint64_t* key = scratch.take<uint64_t>(n);
    int32_t* index = scratch.take<int32_t>(n);
    for (int64_t i = 0; i < n; ++i) {
      key[i] = float_order_bits(value[i]);
      index[i] = static_cast<int32_t>(i);
    }
    radix_sort(key, index, n);
    for (int c = 1; c < per_axis_; ++c) cuts[c - 1] = n > 0 ? value[index[n * c / per_axis_]] : 0.0;
  }
  int place(const double* cuts, double v) const {
    int c = 0;
    for (int i = 0; i + 1 < per_axis_; ++i) c += v >= cuts[i];
    return c;
  }

  int per_axis_;
  double x_cut_[kMostPerAxis];
  double y_cut_[kMostPerAxis][kMostPerAxis];
};

TENFOLD_END
