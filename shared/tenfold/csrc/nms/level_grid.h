// Kept boxes hashed by (width level, height level, cell x, cell y) of their centres, for near-linear NMS.
//
// IoU(i, j) > t implies, per axis, min(w_i, w_j) >= t max(w_i, w_j) and
//   |c_i - c_j| <= (w_i + w_j) / 2 - t max(w_i, w_j).
// So a candidate looks at the levels of compatible size only, and there at the cells within the largest such
// distance. For t near 0 the distance is that of touching boxes: the cells which the candidate covers. Cells are
// found in double with widened bounds; exactness rests on the overlap test alone.
//
// All boxes that may yet be kept are counted beforehand, so each bucket owns a fixed range of slots. Buckets of
// one row of cells follow one another, which lets the vector test run over a whole row of cells at once.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#include "common/arena.h"
#include "nms/overlap.h"

TENFOLD_BEGIN

struct Interval {
  double centre, size;
};

struct CellRange {
  int level;
  int64_t first, last;
};

// One axis of the grid: boxes sorted by size into levels of three octaves, the middle level around the mean.
class GridAxis {
 public:
  static constexpr int kLevels = 64;

  void set_middle(double mean_exponent) { middle_ = static_cast<int>(std::floor(mean_exponent + 0.5)); }

  static int exponent(double size) {
    uint64_t bits;
    std::memcpy(&bits, &size, sizeof bits);
    return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
  }

  int level(double size) const {
    const int steps = exponent(size) - middle_ + 1 + 3 * (kLevels / 2);
    return steps < 0 ? 0 : steps >= 3 * kLevels ? kLevels - 1 : steps / 3;
  }

  void note(int level, double size) {
    if ((present_ >> level & 1) == 0) {
      present_ |= uint64_t{1} << level;
      lower_[level] = upper_[level] = size;
    }
    lower_[level] = size < lower_[level] ? size : lower_[level];
    upper_[level] = size > upper_[level] ? size : upper_[level];
  }

  // Cells of about the distance that boxes of one size look around, times `cells`.
  void finish(double threshold, double cells) {
    threshold_ = threshold;
    for (uint64_t left = present_; left != 0; left &= left - 1) {
      const int l = __builtin_ctzll(left);
      const double typical = std::sqrt(lower_[l]) * std::sqrt(upper_[l]);
      const double reach = typical * (1.0 - threshold > 1.0 / 64 ? 1.0 - threshold : 1.0 / 64);
      inverse_[l] = 1.0 / (cells * (reach > 1e-290 ? reach : 1e-290));
    }
  }

  int64_t cell(int level, double position) const {
    constexpr double kLimit = 1e15;  // a far outlier shares the last cell; monotone, so no hit is lost
    double x = position * inverse_[level];
    x = x < kLimit ? x : kLimit;
    x = x > -kLimit ? x : -kLimit;
    const int64_t c = static_cast<int64_t>(x);
    return c - (x < static_cast<double>(c));
  }

  // The levels with compatible sizes and the cells to look at, for one candidate; returns their number.
  int ranges(const Interval& box, CellRange* out) const {
    int count = 0;
    const double smallest = box.size * threshold_;
    for (uint64_t left = present_; left != 0; left &= left - 1) {
      const int l = __builtin_ctzll(left);
      if (upper_[l] < smallest || lower_[l] * threshold_ > box.size) continue;
      const double reach = farthest(box, l);
      out[count++] = {l, cell(l, box.centre - reach), cell(l, box.centre + reach)};
    }
    return count;
  }

 private:
  double farthest(const Interval& box, int l) const {
    double size = upper_[l];  // below t = 1/2 the distance grows with the other box, up to the largest compatible
    if (size * threshold_ > box.size) size = box.size / threshold_;
    if (threshold_ >= 0.5 && size > box.size) size = box.size > lower_[l] ? box.size : lower_[l];
    const double largest = size > box.size ? size : box.size;
    const double reach = 0.5 * (box.size + size) - threshold_ * largest;
    constexpr double kUlps = 16 * std::numeric_limits<double>::epsilon();
    return reach + kUlps * (std::fabs(box.centre) + largest) + std::numeric_limits<double>::min();
  }

  uint64_t present_ = 0;
  int middle_ = 0;
  double threshold_ = 0;
  double lower_[kLevels], upper_[kLevels], inverse_[kLevels];
};

template <class T>
static inline Interval interval(T low, T high) {
  const double a = static_cast<double>(low);
  const double b = static_cast<double>(high);
  return {0.5 * a + 0.5 * b, b - a};
}

template <class T>
class LevelGrid {
 public:
  // `capacity` boxes at most will be counted and put in.
  LevelGrid(Scratch& scratch, int64_t capacity, double threshold)
      : slots_(scratch, capacity), capacity_(capacity),
        // Sizes and distances were rounded by the overlap test: widen by more than all its roundings.
        threshold_(threshold * (1.0 - 64.0 * std::numeric_limits<T>::epsilon())) {
    while (int64_t{2} << bits_ <= capacity) ++bits_;
    buckets_ = int64_t{1} << bits_;
    start_ = scratch.zeros<int32_t>(buckets_ + 1);
    fill_ = scratch.zeros<int32_t>(buckets_);
  }

  // Build: `survey` every box, `plan`, `count` every box, `allot`; then `put` those that are kept.
  void survey(const Box<T>& b) {
    exponents_x_ += GridAxis::exponent(static_cast<double>(b.x2) - static_cast<double>(b.x1));
    exponents_y_ += GridAxis::exponent(static_cast<double>(b.y2) - static_cast<double>(b.y1));
    ++surveyed_;
  }
  void plan() {
    const double n = surveyed_ > 0 ? static_cast<double>(surveyed_) : 1.0;
    x_.set_middle(static_cast<double>(exponents_x_) / n);
    y_.set_middle(static_cast<double>(exponents_y_) / n);
  }
  void level(const Box<T>& b) {
    const double w = static_cast<double>(b.x2) - static_cast<double>(b.x1);
    const double h = static_cast<double>(b.y2) - static_cast<double>(b.y1);
    const int lx = x_.level(w);
    const int ly = y_.level(h);
    x_.note(lx, w);
    y_.note(ly, h);
    pairs_[lx] |= uint64_t{1} << ly;
  }
  void finish_levels() {
    x_.finish(threshold_, 1.0);
    y_.finish(threshold_, 2.0);
  }
  void count(const Box<T>& b) { ++start_[bucket(b)]; }
  void allot() {
    int32_t sum = 0;
    for (int64_t b = 0; b < buckets_; ++b) {
      const int32_t here = start_[b];
      start_[b] = sum;
      sum += here;
    }
    start_[buckets_] = sum;
  }
  void put(const Box<T>& b, T scaled_area) {
    const int64_t at = bucket(b);
    slots_.put(start_[at] + fill_[at]++, b, scaled_area);
  }

  bool suppresses(const Box<T>& b, const Overlap<T>& candidate) const {
    CellRange xs[GridAxis::kLevels];
    CellRange ys[GridAxis::kLevels];
    const int nx = x_.ranges(interval(b.x1, b.x2), xs);
    const int ny = y_.ranges(interval(b.y1, b.y2), ys);
    int64_t budget = capacity_ / (4 * lanes::kCount<T>) + 64;  // beyond it reading everything is cheaper
    for (int i = 0; i < nx; ++i) {
      const uint64_t pairs = pairs_[xs[i].level];
      const int64_t width = xs[i].last - xs[i].first + 1;
      for (int j = 0; j < ny; ++j) {
        if ((pairs >> ys[j].level & 1) == 0) continue;
        const int64_t rows = ys[j].last - ys[j].first + 1;
        if (width >= buckets_ || rows > budget) return candidate.any(slots_, 0, capacity_);
        budget -= rows;
        const uint64_t salt = pair_salt(xs[i].level, ys[j].level);
        for (int64_t row = ys[j].first; row <= ys[j].last; ++row)
          if (row_suppresses(row_start(salt, row) + static_cast<uint64_t>(xs[i].first), width, candidate)) return true;
      }
    }
    return false;
  }

 private:
  static uint64_t pair_salt(int lx, int ly) { return static_cast<uint64_t>(lx * GridAxis::kLevels + ly) << 40; }
  uint64_t row_start(uint64_t salt, int64_t row) const {
    return ((static_cast<uint64_t>(row) + salt) * 0x9E3779B97F4A7C15u) >> (63 - bits_) >> 1;
  }
  int64_t bucket(const Box<T>& b) const {
    const Interval x = interval(b.x1, b.x2);
    const Interval y = interval(b.y1, b.y2);
    const int lx = x_.level(x.size);
    const int ly = y_.level(y.size);
    const uint64_t at = row_start(pair_salt(lx, ly), y_.cell(ly, y.centre)) + static_cast<uint64_t>(x_.cell(lx, x.centre));
    return static_cast<int64_t>(at & static_cast<uint64_t>(buckets_ - 1));
  }

  // `width` < buckets_ consecutive buckets, wrapping round the end of the table.
  bool row_suppresses(uint64_t first, int64_t width, const Overlap<T>& candidate) const {
    const int64_t begin = static_cast<int64_t>(first & static_cast<uint64_t>(buckets_ - 1));
    const int64_t end = begin + width;
    if (__builtin_expect(end <= buckets_, 1)) return run_suppresses(begin, end, candidate);
    return run_suppresses(begin, buckets_, candidate) || run_suppresses(0, end - buckets_, candidate);
  }
  bool run_suppresses(int64_t begin, int64_t end, const Overlap<T>& candidate) const {
    const int64_t first = start_[begin];
    const int64_t last = start_[end - 1] + fill_[end - 1];
    if (last - first <= kWholeRun) return candidate.any(slots_, first, last);
    // Many of these slots may never be filled (boxes that were suppressed): visit the filled ones only.
    for (int64_t b = begin; b < end; ++b)
      if (candidate.any(slots_, start_[b], start_[b] + fill_[b])) return true;
    return false;
  }

  static constexpr int64_t kWholeRun = 64;

  BoxSlots<T> slots_;
  int64_t capacity_;
  double threshold_;
  int bits_ = 0;
  int64_t buckets_ = 1;
  int32_t* start_;
  int32_t* fill_;
  GridAxis x_, y_;
  uint64_t pairs_[GridAxis::kLevels] = {};
  int64_t exponents_x_ = 0, exponents_y_ = 0, surveyed_ = 0;
};

TENFOLD_END
