#include "nms/nms.h"

#include <cmath>

#include "common/arena.h"
#include "common/radix.h"
#include "nms/groups.h"
#include "nms/level_grid.h"
#include "nms/overlap.h"

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
      if (what != 2) continue;
    }
    if (a.use_score_threshold && !(static_cast<double>(s) > a.score_threshold)) continue;
    key[m] = static_cast<order_key<T>>(~float_order_bits(s));
    row[m++] = static_cast<int32_t>(i);
  }
  return m;
}

// Suppresses among candidates in descending order and moves those kept to the front of `item`. An item leads to
// its row through `row` (null: it is the row). Few kept boxes stay in one list; beyond that they go to a grid.
template <class T>
class Suppression {
 public:
  Suppression(const NmsArgs<T>& a, const int32_t* row, int32_t* item, int64_t count, int64_t limit)
      : a_(a), rule_(a.iou_threshold), row_(row), item_(item), count_(count), limit_(limit < count ? limit : count) {}

  int64_t run() {
    if (a_.iou_threshold >= 1) return limit_;  // no quotient exceeds 1
    Scratch scratch;
    const int64_t next = list_phase();
    if (next < count_ && kept_ < limit_) grid_phase(next);
    return kept_;
  }

 private:
  static constexpr int64_t kListed = 512;
  static constexpr int64_t kWorthGrid = 256;
  static constexpr int64_t kAhead = 8;

  Box<T> box(int64_t position) const {
    const int32_t item = item_[position];
    return box_at(a_, row_of(item));
  }
  int32_t row_of(int32_t item) const { return row_ ? row_[item] : item; }
  void fetch(int64_t position) const {
    if (position >= count_) return;
    const int32_t item = item_[position];
    prefetch(a_.boxes + 4 * int64_t{row_of(item)});
  }
  void keep(int64_t position) { item_[kept_++] = item_[position]; }
  // Boxes without area, or with one beyond the largest number, meet every other box with IoU 0.
  static bool takes_part(T area) { return area > 0 && area <= std::numeric_limits<T>::max(); }

  // Returns the first position that is left for the grid.
  int64_t list_phase() {
    Scratch scratch;
    const int64_t most = count_ < kListed + kWorthGrid ? count_ : kListed + kWorthGrid;
    BoxSlots<T> list(scratch, most);
    int64_t listed = 0;
    for (int64_t i = 0; i < count_ && kept_ < limit_; ++i) {
      if (listed >= kListed && count_ - i >= kWorthGrid) return i;
      fetch(i + kAhead);
      const Box<T> b = box(i);
      const T area = box_area(b);
      if (takes_part(area)) {
        if (Overlap<T>(rule_, b, area).any(list, 0, listed)) continue;
        list.put(listed++, b, rule_.scaled(area));
      }
      keep(i);
    }
    return count_;
  }

  template <class F>
  void each_box(int64_t next, F&& f) const {
    for (int64_t i = 0; i < count_; i = i + 1 == kept_ ? next : i + 1) {
      const Box<T> b = box(i);
      const T area = box_area(b);
      if (takes_part(area)) f(b, area);
    }
  }

  void grid_phase(int64_t next) {
    Scratch scratch;
    LevelGrid<T> grid(scratch, kept_ + count_ - next, a_.iou_threshold);
    each_box(next, [&](const Box<T>& b, T) { grid.survey(b); });
    grid.plan();
    each_box(next, [&](const Box<T>& b, T) { grid.level(b); });
    grid.finish_levels();
    each_box(next, [&](const Box<T>& b, T) { grid.count(b); });
    grid.allot();
    for (int64_t i = 0; i < kept_; ++i) {
      const Box<T> b = box(i);
      const T area = box_area(b);
      if (takes_part(area)) grid.put(b, rule_.scaled(area));
    }
    for (int64_t i = next; i < count_ && kept_ < limit_; ++i) {
      fetch(i + kAhead);
      const Box<T> b = box(i);
      const T area = box_area(b);
      if (takes_part(area)) {
        if (grid.suppresses(b, Overlap<T>(rule_, b, area))) continue;
        grid.put(b, rule_.scaled(area));
      }
      keep(i);
    }
  }

  const NmsArgs<T>& a_;
  const OverlapRule<T> rule_;
  const int32_t* row_;
  int32_t* item_;
  int64_t count_;
  int64_t limit_;
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

constexpr int32_t kKeptBit = std::numeric_limits<int32_t>::min();

// Moves the marked rows, unmarked, to the front.
int64_t collect_kept(int32_t* row, int64_t m, int64_t limit) {
  int64_t kept = 0;
  for (int64_t r = 0; r < m && kept < limit; ++r)
    if (row[r] < 0) row[kept++] = row[r] & ~kKeptBit;
  return kept;
}

// Groups in parallel: each task takes the groups that start in its piece of the grouped candidates.
template <class T>
void suppress_groups(NmsArgs<T>& a, int32_t* row, int64_t m, int64_t limit) {
  constexpr int64_t kPiece = 2048;
  Scratch scratch;
  int32_t* rank = scratch.take<int32_t>(m);
  GroupStarts starts(scratch, m);
  group_ranks(a, row, rank, m, starts);
  parallel_ranges(a.parallel, m, kPiece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t first = starts.next(begin, end); first < end;) {
      const int64_t last = starts.next(first + 1, m);
      const int64_t kept = Suppression<T>(a, row, rank + first, last - first, limit).run();
      for (int64_t i = first; i < first + kept; ++i) row[rank[i]] |= kKeptBit;
      first = last;
    }
  });
  a.kept = collect_kept(row, m, limit);
}

template <class T>
void nms(NmsArgs<T>& a) {
  a.kept = 0;
  a.bad_row = -1;
  a.bad_what = 0;
  const int64_t m = rank_candidates(a, a.keep);
  const int64_t limit = a.max_out < 0 || a.max_out > m ? m : a.max_out;
  if (m == 0 || limit == 0) return;
  if (a.labels != nullptr) return suppress_groups(a, a.keep, m, limit);
  a.kept = Suppression<T>(a, nullptr, a.keep, m, limit).run();
}

}  // namespace

void nms_f32(NmsArgs<float>& args) { nms(args); }
void nms_f64(NmsArgs<double>& args) { nms(args); }

TENFOLD_END
