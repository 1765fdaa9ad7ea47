#include "nms/nms.h"

#include <cmath>
#include <numeric>

#include "common/arena.h"
#include "common/radix.h"
#include "nms/groups.h"
#include "nms/level_grid.h"
#include "nms/overlap.h"
#include "nms/tiles.h"

TENFOLD_BEGIN

namespace {

template <class T>
using order_key = decltype(float_order_bits(T()));

template <class T>
Box<T> box_at(const NmsArgs<T>& a, int64_t row) {
  Box<T> b;
  std::memcpy(&b, a.boxes + 4 * row, sizeof b);
  return b;
}

template <class T>
bool finite_box(const Box<T>& b) {
  // x - x is NaN for infinities and NaN, and +0 otherwise.
  return ((b.x1 - b.x1) + (b.y1 - b.y1)) + ((b.x2 - b.x2) + (b.y2 - b.y2)) == 0;
}

template <class T>
int fault(const Box<T>& b, T score) {
  return !finite_box(b) ? 1 : (b.x2 < b.x1 || b.y2 < b.y1) ? 2 : std::isnan(score) ? 3 : 0;
}

// Row numbers and sort keys (ascending key = descending score) of the boxes that take part. Returns their
// number; a row that fails validation ends the pass.
template <class T>
int64_t select_candidates(NmsArgs<T>& a, order_key<T>* key, int32_t* row) {
  int64_t m = 0;
  for (int64_t i = 0; i < a.n; ++i) {
    const T s = a.scores[i];
    const int what = fault(box_at(a, i), s);
    if (__builtin_expect(what != 0, 0)) {
      if (a.validate) {
        a.bad_row = i;
        a.bad_what = what;
        return 0;
      }
      if (what != 2 || std::isnan(s)) continue;  // an inverted box may also lack a score
    }
    if (a.use_score_threshold && !(static_cast<double>(s) > a.score_threshold)) continue;
    key[m] = static_cast<order_key<T>>(~float_order_bits(s));
    row[m++] = static_cast<int32_t>(i);
  }
  return m;
}

// Boxes without area, or with one beyond the largest number, meet every other box with IoU 0.
template <class T>
bool takes_part(T area) {
  return area > 0 && area <= std::numeric_limits<T>::max();
}

constexpr int32_t kMark = std::numeric_limits<int32_t>::min();
constexpr int32_t unmarked(int32_t x) { return x & ~kMark; }

// The simplest store of kept boxes: one list, read as a whole.
template <class T>
class KeptList {
 public:
  KeptList(Scratch& scratch, int64_t capacity) : slots_(scratch, capacity) {}
  const BoxSlots<T>& slots() const { return slots_; }
  int64_t size() const { return size_; }
  void put(const Box<T>& b, T scaled_area, bool open) { slots_.put(size_++, b, scaled_area, open); }
  template <class F>
  bool visit(const Box<T>&, const Overlap<T>& candidate, F&& hit) const {
    return candidate.visit(slots_, 0, size_, hit);
  }

 private:
  BoxSlots<T> slots_;
  int64_t size_ = 0;
};

// Suppresses among candidates in descending order and moves those kept to the front of `item`. An item leads to
// its row through `row` (null: it is the row). Few kept boxes stay in a list; beyond that they go to a grid.
// With a region, boxes that it cannot decide are moved to the front too, marked.
template <class T>
class Suppression {
 public:
  Suppression(const NmsArgs<T>& a, const int32_t* row, int32_t* item, int64_t count, int64_t limit,
              const Region* region = nullptr)
      : a_(a), rule_(a.iou_threshold), row_(row), item_(item), count_(count), limit_(limit < count ? limit : count),
        region_(region) {}

  int64_t run() {
    if (a_.iou_threshold >= 1) return limit_;  // no quotient exceeds 1
    Scratch scratch;
    if (count_ <= a_.n / 4) gather(scratch);
    const int64_t next = list_phase();
    if (next < count_ && kept_ < limit_) grid_phase(next);
    return kept_;
  }

 private:
  static constexpr int64_t kListed = 512;
  static constexpr int64_t kWorthGrid = 256;
  static constexpr int64_t kAhead = 12;

  int64_t row_of(int64_t position) const {
    const int32_t item = unmarked(item_[position]);
    return row_ ? row_[item] : item;
  }
  Box<T> box(int64_t position) const { return near_ ? near_[position] : box_at(a_, row_of(position)); }
  void fetch(int64_t position) const {
    if (near_ == nullptr && position < count_) prefetch(a_.boxes + 4 * row_of(position));
  }

  // A small part of all boxes is copied together: scattered, each of them would occupy a cache line.
  void gather(Scratch& scratch) {
    Box<T>* boxes = scratch.take<Box<T>>(count_);
    for (int64_t i = 0; i < count_; ++i) {
      fetch(i + kAhead);
      boxes[i] = box(i);
    }
    near_ = boxes;
  }

  template <class Store>
  void decide(int64_t position, Store& store) {
    fetch(position + kAhead);
    const Box<T> b = box(position);
    const T area = box_area(b);
    bool open = false;
    if (takes_part(area)) {
      const Overlap<T> overlap(rule_, b, area);
      const bool dropped =
          region_ == nullptr ? store.visit(b, overlap, [](int64_t, lane_mask) { return true; })
                             : store.visit(b, overlap, [&](int64_t at, lane_mask lane) {
                                 open = true;
                                 return store.slots().any_kept(at, lane);
                               });
      if (dropped) return;
      open = region_ != nullptr && (open || !region_->encloses(b));
      store.put(b, rule_.scaled(area), open);
    }
    if (near_ != nullptr) near_[kept_] = b;
    item_[kept_++] = item_[position] | (open ? kMark : 0);
  }

  // Returns the first position that is left for the grid.
  int64_t list_phase() {
    Scratch scratch;
    KeptList<T> list(scratch, count_ < kListed + kWorthGrid ? count_ : kListed + kWorthGrid);
    for (int64_t i = 0; i < count_ && kept_ < limit_; ++i) {
      if (list.size() >= kListed && count_ - i >= kWorthGrid) return i;
      decide(i, list);
    }
    return count_;
  }

  // Calls f(box, area, open) for the boxes at positions [begin, end) that can overlap others.
  template <class F>
  void each_box(int64_t begin, int64_t end, F&& f) const {
    for (int64_t i = begin; i < end; ++i) {
      fetch(i + kAhead);
      const Box<T> b = box(i);
      const T area = box_area(b);
      if (takes_part(area)) f(b, area, item_[i] < 0);
    }
  }

  void grid_phase(int64_t next) {
    Scratch scratch;
    LevelGrid<T> grid(scratch, kept_ + count_ - next, a_.iou_threshold);
    double width = 0, height = 0, sampled = 0;
    each_box(0, kept_, [&](const Box<T>& b, T, bool) {
      width += std::log2(interval(b.x1, b.x2).size);
      height += std::log2(interval(b.y1, b.y2).size);
      ++sampled;
    });
    grid.plan(width / sampled, height / sampled);
    const auto count = [&](const Box<T>& b, T, bool) { grid.count(b); };
    each_box(0, kept_, count);
    each_box(next, count_, count);
    grid.allot();
    each_box(0, kept_, [&](const Box<T>& b, T area, bool open) { grid.put(b, rule_.scaled(area), open); });
    for (int64_t i = next; i < count_ && kept_ < limit_; ++i) decide(i, grid);
  }

  const NmsArgs<T>& a_;
  const OverlapRule<T> rule_;
  const int32_t* row_;
  int32_t* item_;
  int64_t count_;
  int64_t limit_;
  const Region* region_;
  Box<T>* near_ = nullptr;  // as item_, if gathered
  int64_t kept_ = 0;
};

// Row numbers of the candidates in descending score, ties by row; returns their number.
template <class T>
int64_t rank_candidates(NmsArgs<T>& a, int32_t* row) {
  Scratch scratch;
  order_key<T>* key = scratch.take<order_key<T>>(a.n);
  const int64_t m = select_candidates(a, key, row);
  radix_sort(key, row, m);
  return m;
}

// Moves the marked rows, unmarked, to the front.
int64_t collect_kept(int32_t* row, int64_t m, int64_t limit) {
  int64_t kept = 0;
  for (int64_t r = 0; r < m && kept < limit; ++r)
    if (row[r] < 0) row[kept++] = unmarked(row[r]);
  return kept;
}

// Groups in parallel: each task takes the groups that start in its piece of the grouped candidates.
template <class T>
void suppress_groups(NmsArgs<T>& a, int32_t* row, int64_t m, int64_t limit) {
  constexpr int64_t kPiece = 2048;
  Scratch scratch;
  int32_t* rank = scratch.take<int32_t>(m);
  PositionSet starts(scratch, m);
  group_ranks(a, row, rank, m, starts);
  parallel_ranges(a.parallel, m, kPiece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t first = starts.next(begin, end); first < end;) {
      const int64_t last = starts.next(first + 1, m);
      const int64_t kept = Suppression<T>(a, row, rank + first, last - first, limit).run();
      for (int64_t i = first; i < first + kept; ++i) row[rank[i]] |= kMark;
      first = last;
    }
  });
  a.kept = collect_kept(row, m, limit);
}

// Suppression of one group that is large enough to be cut into tiles.
template <class T>
class TiledSuppression {
 public:
  // The candidates are the ranks from[0..count), ascending (null: all below count); row[rank] is their row.
  TiledSuppression(const NmsArgs<T>& a, int32_t* row, const int32_t* from, int64_t count)
      : a_(a), row_(row), from_(from), count_(count) {
    plane_.threshold = lowered_threshold<T>(a.iou_threshold);
  }

  // Marks the kept rows. Returns false, with nothing done, where tiles would be too few or have too much border.
  // `repeats`: how often what tiles leave open is cut into other tiles before it is treated as a whole.
  bool run(int repeats, int avoid = 1) {
    constexpr int64_t kTile = 8192;
    int per_axis = 1;
    while (per_axis < Tiling::kMostPerAxis && (per_axis + 1) * (per_axis + 1) * kTile <= count_ + count_ / 4) ++per_axis;
    for (; per_axis > 1; --per_axis) {
      int p = per_axis;  // other cuts than those that left these boxes open
      while (p < Tiling::kMostPerAxis && std::gcd(p, avoid) > 1) ++p;
      const Tiling tiling(p, count_, [&](int64_t i) { return box(i); });
      if (few_on_borders(tiling)) return run_tiles(tiling, repeats, p);
    }
    return false;
  }

 private:
  int32_t rank_of(int64_t i) const { return from_ ? from_[i] : static_cast<int32_t>(i); }
  int64_t row_of(int64_t i) const { return unmarked(row_[rank_of(i)]); }
  Box<T> box(int64_t i) const { return box_at(a_, row_of(i)); }

  bool few_on_borders(const Tiling& tiling) const {
    constexpr int64_t kSamples = 1024;
    const int64_t step = count_ / kSamples + 1;
    Region plane = plane_;
    int64_t sampled = 0;
    int64_t outside = 0;
    for (int64_t i = 0; i < count_; i += step) {
      const Box<T> b = box(i);
      if (!takes_part(box_area(b))) continue;
      plane.note_size(b);
      ++sampled;
      outside += !tiling.region(tiling.tile(b), plane).encloses(b);
    }
    return outside * 4 < sampled;
  }

  bool run_tiles(const Tiling& tiling, int repeats, int per_axis) {
    Scratch scratch;
    const int tiles = tiling.tiles();
    int32_t* rank = scratch.take<int32_t>(count_);
    int32_t* start = scratch.zeros<int32_t>(tiles + 1);
    int32_t* live = scratch.take<int32_t>(tiles);
    sort_into_tiles(tiling, rank, start);
    if (!few_on_borders(tiling)) return false;  // some box that the sample missed is far larger
    parallel_tasks(a_.parallel, tiles, [&](int64_t t) {
      const Region region = tiling.region(static_cast<int>(t), plane_);
      const int64_t count = start[t + 1] - start[t];
      live[t] = static_cast<int32_t>(Suppression<T>(a_, row_, rank + start[t], count, count, &region).run());
      for (int64_t i = start[t]; i < start[t] + live[t]; ++i)
        if (rank[i] >= 0) row_[rank[i]] |= kMark;
    });
    const int64_t left = collect_open(rank, start, live, tiles);
    if (repeats > 0 && TiledSuppression(a_, row_, rank, left).run(repeats - 1, per_axis)) return true;
    const int64_t kept = Suppression<T>(a_, row_, rank, left, left).run();
    for (int64_t i = 0; i < kept; ++i) row_[rank[i]] |= kMark;
    return true;
  }

  // Ranks by tile, ascending inside each; tile t has those at [start[t], start[t + 1]).
  void sort_into_tiles(const Tiling& tiling, int32_t* rank, int32_t* start) {
    constexpr int64_t kAhead = 12;
    Scratch scratch;
    uint16_t* tile = scratch.take<uint16_t>(count_);
    for (int64_t i = 0; i < count_; ++i) {
      if (i + kAhead < count_) prefetch(a_.boxes + 4 * row_of(i + kAhead));
      const Box<T> b = box(i);
      tile[i] = static_cast<uint16_t>(tiling.tile(b));
      ++start[tile[i] + 1];
      if (takes_part(box_area(b))) plane_.note_size(b);
    }
    int32_t* next = scratch.take<int32_t>(tiling.tiles());
    for (int t = 0; t < tiling.tiles(); ++t) {
      start[t + 1] += start[t];
      next[t] = start[t];
    }
    for (int64_t i = 0; i < count_; ++i) rank[next[tile[i]]++] = rank_of(i);
  }

  // Moves the marked (open) ranks of all tiles, unmarked and ascending, to the front.
  int64_t collect_open(int32_t* rank, const int32_t* start, const int32_t* live, int tiles) const {
    Scratch scratch;
    const int64_t end = rank_of(count_ - 1) + int64_t{1};
    PositionSet open(scratch, end);
    for (int t = 0; t < tiles; ++t)
      for (int64_t i = start[t]; i < start[t] + live[t]; ++i)
        if (rank[i] < 0) open.mark(unmarked(rank[i]));
    int64_t left = 0;
    for (int64_t r = open.next(0, end); r < end; r = open.next(r + 1, end)) rank[left++] = static_cast<int32_t>(r);
    return left;
  }

  const NmsArgs<T>& a_;
  int32_t* row_;
  const int32_t* from_;
  int64_t count_;
  Region plane_;  // unbounded; with the threshold and the largest sizes
};

template <class T>
void nms(NmsArgs<T>& a) {
  a.kept = 0;
  a.bad_row = -1;
  a.bad_what = 0;
  const int64_t m = rank_candidates(a, a.keep);
  const int64_t limit = a.max_out < 0 || a.max_out > m ? m : a.max_out;
  if (m == 0 || limit == 0) return;
  if (a.labels != nullptr || a.batch != nullptr)
    suppress_groups(a, a.keep, m, limit);
  else if (limit < m || a.iou_threshold >= 1 || !TiledSuppression<T>(a, a.keep, nullptr, m).run(1))
    a.kept = Suppression<T>(a, nullptr, a.keep, m, limit).run();
  else
    a.kept = collect_kept(a.keep, m, limit);
}

}  // namespace

void nms_f32(NmsArgs<float>& args) { nms(args); }
void nms_f64(NmsArgs<double>& args) { nms(args); }

TENFOLD_END
