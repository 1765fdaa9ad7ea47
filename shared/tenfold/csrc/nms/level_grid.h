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

// How far from the centre of `box` that of a box of size [lower, upper] can be with an overlap above the threshold.
static inline double farthest_overlap(const Interval& box, double lower, double upper, double threshold) {
  double size = upper;  // below t = 1/2 the distance grows with the other box, up to the largest compatible one
  if (size * threshold > box.size) size = box.size / threshold;
  if (threshold >= 0.5 && size > box.size) size = box.size > lower ? box.size : lower;
  const double largest = size > box.size ? size : box.size;
  constexpr double kUlps = 16 * std::numeric_limits<double>::epsilon();
  return 0.5 * (box.size + size) - threshold * largest + kUlps * (std::fabs(box.centre) + largest) +
         std::numeric_limits<double>::min();
}

// The overlap test works with rounded sizes and distances: bounds use a threshold lowered by more than that.
template <class T>
static inline double lowered_threshold(double t) {
  return t * (1.0 - 64.0 * std::numeric_limits<T>::epsilon());
}

struct CellRange {
  int level;
  int64_t first, last;
};

// One axis of the grid: boxes sorted by size into levels of three octaves, the middle level around the mean.
class GridAxis {
 public:
  static constexpr int kLevels = 64;

  // `mean_log2`: of the sizes of some boxes. A cell is `cells` times as large as the distance which a typical box
  // of its level looks around for others of its size.
  void plan(double threshold, double mean_log2, double cells) {
    threshold_ = threshold;
    middle_ = static_cast<int>(std::floor(mean_log2));
    const double reach = cells * (1.0 - threshold > 1.0 / 64 ? 1.0 - threshold : 1.0 / 64);
    for (int l = 0; l < kLevels; ++l) {
      const double typical = mean_log2 + 3 * (l - kLevels / 2);
      inverse_[l] = std::exp2(typical > -960 ? typical < 960 ? -typical : -960 : 960) / reach;
    }
  }

  static int exponent(double size) {
    uint64_t bits;
    std::memcpy(&bits, &size, sizeof bits);
    return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
  }

  int level(double size) const {
    const int steps = exponent(size) - middle_ + 1 + 3 * (kLevels / 2);
    return steps < 0 ? 0 : steps >= 3 * kLevels ? kLevels - 1 : steps / 3;
  }

  // Sizes that may be met, for the choice of levels to look at.
  void note(int level, double size) {
    if ((present_ >> level & 1) == 0) {
      present_ |= uint64_t{1} << level;
      lower_[level] = upper_[level] = size;
    }
    lower_[level] = size < lower_[level] ? size : lower_[level];
    upper_[level] = size > upper_[level] ? size : upper_[level];
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
      const double reach = farthest_overlap(box, lower_[l], upper_[l], threshold_);
      out[count++] = {l, cell(l, box.centre - reach), cell(l, box.centre + reach)};
    }
    return count;
  }

 private:
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
        threshold_(lowered_threshold<T>(threshold)) {
    while (int64_t{2} << bits_ <= capacity) ++bits_;
    buckets_ = int64_t{1} << bits_;
    cell_ = scratch.zeros<Bucket>(buckets_);
  }

  // Build: `plan` from some of the boxes, `count` every box, `allot`; then `put` those that are kept.
  void plan(double mean_log2_width, double mean_log2_height) {
    x_.plan(threshold_, mean_log2_width, 2.0);
    y_.plan(threshold_, mean_log2_height, 2.0);
  }
  void count(const Box<T>& b) {
    const Interval x = interval(b.x1, b.x2);
    const Interval y = interval(b.y1, b.y2);
    const int lx = x_.level(x.size);
    const int ly = y_.level(y.size);
    x_.note(lx, x.size);
    y_.note(ly, y.size);
    pairs_[lx] |= uint64_t{1} << ly;
    ++cell_[bucket(x, lx, y, ly)].start;
  }
  void allot() {
    int32_t sum = 0;
    for (int64_t b = 0; b < buckets_; ++b) {
      const int32_t here = cell_[b].start;
      cell_[b] = {sum, sum};
      sum += here;
    }
  }
  void put(const Box<T>& b, T scaled_area, bool open) {
    slots_.put(cell_[bucket(b)].end++, b, scaled_area, open);
  }

  const BoxSlots<T>& slots() const { return slots_; }

  // As Overlap::visit, over all boxes that were put in.
  template <class F>
  bool visit(const Box<T>& b, const Overlap<T>& candidate, F&& hit) const {
    // Where many boxes were kept, the one that suppresses is most likely in the candidate's own cell.
    const Bucket own = cell_[bucket(b)];
    if (own.end - own.start >= kCrowded && candidate.visit(slots_, own.start, own.end, hit)) return true;
    CellRange xs[GridAxis::kLevels];
    CellRange ys[GridAxis::kLevels];
    const int nx = x_.ranges(interval(b.x1, b.x2), xs);
    const int ny = y_.ranges(interval(b.y1, b.y2), ys);
    int64_t budget = capacity_ / (4 * kWidth<T>) + 64;  // beyond it reading everything is cheaper
    for (int i = 0; i < nx; ++i) {
      const uint64_t pairs = pairs_[xs[i].level];
      const int64_t width = xs[i].last - xs[i].first + 1;
      for (int j = 0; j < ny; ++j) {
        if ((pairs >> ys[j].level & 1) == 0) continue;
        const int64_t rows = ys[j].last - ys[j].first + 1;
        if (width >= buckets_ || rows > budget) return candidate.visit(slots_, 0, capacity_, hit);
        budget -= rows;
        const uint64_t salt = pair_salt(xs[i].level, ys[j].level);
        for (int64_t row = ys[j].first; row <= ys[j].last; ++row)
          if (visit_row(row_start(salt, row) + static_cast<uint64_t>(xs[i].first), width, candidate, hit)) return true;
      }
    }
    return false;
  }

 private:
  struct Bucket {
    int32_t start, end;  // filled slots; while counting, `start` is the count
  };
  static uint64_t pair_salt(int lx, int ly) { return static_cast<uint64_t>(lx * GridAxis::kLevels + ly) << 40; }
  uint64_t row_start(uint64_t salt, int64_t row) const {
    return ((static_cast<uint64_t>(row) + salt) * 0x9E3779B97F4A7C15u) >> (63 - bits_) >> 1;
  }
  int64_t bucket(const Interval& x, int lx, const Interval& y, int ly) const {
    const uint64_t at = row_start(pair_salt(lx, ly), y_.cell(ly, y.centre)) + static_cast<uint64_t>(x_.cell(lx, x.centre));
    return static_cast<int64_t>(at & static_cast<uint64_t>(buckets_ - 1));
  }

  int64_t bucket(const Box<T>& b) const {
    const Interval x = interval(b.x1, b.x2);
    const Interval y = interval(b.y1, b.y2);
    return bucket(x, x_.level(x.size), y, y_.level(y.size));
  }

  // `width` < buckets_ consecutive buckets, wrapping round the end of the table.
  template <class F>
  bool visit_row(uint64_t first, int64_t width, const Overlap<T>& candidate, F&& hit) const {
    const int64_t begin = static_cast<int64_t>(first & static_cast<uint64_t>(buckets_ - 1));
    const int64_t end = begin + width;
    if (__builtin_expect(end <= buckets_, 1)) return visit_run(begin, end, candidate, hit);
    return visit_run(begin, buckets_, candidate, hit) || visit_run(0, end - buckets_, candidate, hit);
  }
  template <class F>
  bool visit_run(int64_t begin, int64_t end, const Overlap<T>& candidate, F&& hit) const {
    const int64_t first = cell_[begin].start;
    const int64_t last = cell_[end - 1].end;
    if (last - first <= kWholeRun) return candidate.visit(slots_, first, last, hit);
    // Many of these slots may never be filled (boxes that were suppressed): visit the filled ones only.
    for (int64_t b = begin; b < end; ++b)
      if (candidate.visit(slots_, cell_[b].start, cell_[b].end, hit)) return true;
    return false;
  }

  static constexpr int32_t kCrowded = 4;
  static constexpr int64_t kWholeRun = 96;

  BoxSlots<T> slots_;
  int64_t capacity_;
  double threshold_;
  int bits_ = 0;
  int64_t buckets_ = 1;
  Bucket* cell_;
  GridAxis x_, y_;
  uint64_t pairs_[GridAxis::kLevels] = {};
};

TENFOLD_END
