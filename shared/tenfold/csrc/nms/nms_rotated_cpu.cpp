#include "nms/nms_rotated.h"

#include "common/radix.h"
#include "iou/rects.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kTaskBoxes = 2048;
constexpr int64_t kSmall = 64;  // up to here one list of kept boxes beats the grid
constexpr int kClasses = 16;
constexpr int kBins = 1024;
constexpr int64_t kFarCell = (int64_t{1} << 28) - 4;
constexpr uint64_t kNoCell = ~uint64_t{0};

template <class T>
RectFormat format_of(const NmsRotatedArgs<T>& a) {
  return {a.columns, a.metric == NmsMetric::aligned_bev, a.metric == NmsMetric::volume};
}

// ---- a grid of the boxes' centres; each cell holds its kept boxes side by side, ready for vector loads

struct Cell {
  uint64_t key;
  int32_t start;  // first slot of the cell; it has one slot for each of its boxes
  int32_t kept;   // slots in use
};

// Boxes of similar size share a grid: the cell is the largest circumscribed diameter of the class.
struct SizeClass {
  double radius, smallest;
  double inverse;    // of the cell's side; 0: one cell for all
  int64_t kept;
  int32_t first_cell;  // in Grid::cells
  int32_t cell_count;
};

struct Grid {
  RectArrays rects;  // by slot
  double *z, *hz;    // by slot, for volumes
  int32_t* slot;     // of each box, -1 without extent
  Cell* table;       // open addressing
  int64_t size;
  int32_t* cells;    // places in the table, class by class
  SizeClass classes[kClasses];
  int class_count;
  int8_t class_of_bin[kBins];
};

// Power-of-two bin of a radius, from the exponent of its square.
inline int radius_bin(double squared) {
  uint64_t bits;
  std::memcpy(&bits, &squared, sizeof bits);
  return static_cast<int>(bits >> 53);
}

inline int64_t cell_of(double x, double inverse) {
  double q = std::floor(x * inverse);
  q = min_of(max_of(q, -static_cast<double>(kFarCell)), static_cast<double>(kFarCell));
  return static_cast<int64_t>(q);
}

inline uint64_t cell_key(int size_class, int64_t ix, int64_t iy) {
  const int64_t middle = int64_t{1} << 28;
  return static_cast<uint64_t>(size_class) << 58 | static_cast<uint64_t>(ix + middle) << 29 |
         static_cast<uint64_t>(iy + middle);
}

// The place of a key in the table, or the free place where it belongs.
inline int64_t find_cell(const Grid& g, uint64_t key) {
  const uint64_t hash = (key * 0x9e3779b97f4a7c15u) >> 32;
  int64_t place = static_cast<int64_t>((hash * static_cast<uint64_t>(g.size)) >> 32);
  while (g.table[place].key != key && g.table[place].key != kNoCell)
    if (++place == g.size) place = 0;
  return place;
}

// A class takes the bin of its largest box and the one below: sizes within a factor of four.
void make_classes(Grid& g, const double* largest, const double* smallest) {
  g.class_count = 0;
  int lowest = kBins;  // of the open class
  for (int bin = kBins - 1; bin >= 0; --bin) {
    if (largest[bin] == 0.0) continue;
    if (bin < lowest && g.class_count < kClasses) {
      g.classes[g.class_count++] = {largest[bin], smallest[bin], 0.0, 0, 0, 0};
      lowest = bin - 1;
    }
    SizeClass& c = g.classes[g.class_count - 1];
    c.smallest = min_of(c.smallest, smallest[bin]);
    g.class_of_bin[bin] = static_cast<int8_t>(g.class_count - 1);
  }
  for (int k = 0; k < g.class_count; ++k) {
    SizeClass& c = g.classes[k];
    c.inverse = c.radius < 1e150 ? 0.5 / max_of(c.radius, 1e-150) : 0.0;
  }
}

template <class T, class RowOf>
void classify(Grid& g, const NmsRotatedArgs<T>& a, int64_t n, RowOf&& row_of) {
  const RectFormat format = format_of(a);
  const int size = a.columns == 7 ? 3 : 2;
  Scratch temporary;
  double* largest = temporary.zeros<double>(kBins);
  double* smallest = temporary.take<double>(kBins);
  for (int bin = 0; bin < kBins; ++bin) smallest[bin] = HUGE_VAL;
  for (int64_t i = 0; i < n; ++i) {
    const T* row = a.boxes + row_of(i) * a.columns;
    g.slot[i] = box_extent(row, format) == Extent::full ? 0 : -1;
    if (g.slot[i] < 0) continue;
    const double hx = 0.5 * static_cast<double>(row[size]);
    const double hy = 0.5 * static_cast<double>(row[size + 1]);
    const int bin = radius_bin(hx * hx + hy * hy);
    const double r = circumradius(hx, hy);
    largest[bin] = max_of(largest[bin], max_of(r, 1e-300));
    smallest[bin] = min_of(smallest[bin], r);
    g.slot[i] = bin;
  }
  make_classes(g, largest, smallest);
}

// Turns the bins in g.slot into table places, then into slots; boxes of a cell lie in rank order.
template <class T, class RowOf>
void assign_slots(Grid& g, const NmsRotatedArgs<T>& a, int64_t n, RowOf&& row_of) {
  for (int64_t k = 0; k < g.size; ++k) g.table[k] = {kNoCell, 0, 0};
  for (int64_t i = 0; i < n; ++i) {
    if (g.slot[i] < 0) continue;
    const T* row = a.boxes + row_of(i) * a.columns;
    const int k = g.class_of_bin[g.slot[i]];
    SizeClass& c = g.classes[k];
    const uint64_t key = cell_key(k, cell_of(row[0], c.inverse), cell_of(row[1], c.inverse));
    const int64_t place = find_cell(g, key);
    Cell& cell = g.table[place];
    if (cell.key == kNoCell) {
      cell.key = key;
      ++c.cell_count;
    }
    ++cell.kept;
    g.slot[i] = static_cast<int32_t>(place);
  }
  int32_t next = 0;
  for (int k = 0; k < g.class_count; ++k) {
    g.classes[k].first_cell = next;
    next += g.classes[k].cell_count;
    g.classes[k].cell_count = 0;
  }
  int32_t slots = 0;
  for (int64_t place = 0; place < g.size; ++place) {
    Cell& cell = g.table[place];
    if (cell.key == kNoCell) continue;
    SizeClass& c = g.classes[cell.key >> 58];
    g.cells[c.first_cell + c.cell_count++] = static_cast<int32_t>(place);
    cell.start = slots;
    slots += cell.kept;
    cell.kept = 0;
  }
  for (int64_t i = 0; i < n; ++i) {
    if (g.slot[i] < 0) continue;
    Cell& cell = g.table[g.slot[i]];
    g.slot[i] = cell.start + cell.kept++;
  }
  for (int64_t place = 0; place < g.size; ++place) g.table[place].kept = 0;
}

template <class T, class RowOf>
void put_boxes(Grid& g, const NmsRotatedArgs<T>& a, int64_t n, RowOf&& row_of) {
  const RectFormat format = format_of(a);
  int64_t slots = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t at = g.slot[i];
    if (at < 0) continue;
    ++slots;
    const T* row = a.boxes + row_of(i) * a.columns;
    put_rect(g.rects, at, row, format);
    if (!format.volume) continue;
    g.z[at] = row[2];
    g.hz[at] = 0.5 * static_cast<double>(row[5]);
  }
  finish_angles(g.rects, slots);
}

template <class T, class RowOf>
void build_grid(Scratch& scratch, Grid& g, const NmsRotatedArgs<T>& a, int64_t n, RowOf&& row_of) {
  g.slot = scratch.take<int32_t>(n);
  g.size = n + n / 2 + 1;
  g.table = scratch.take<Cell>(g.size);
  g.cells = scratch.take<int32_t>(n);
  classify(g, a, n, row_of);
  if (n <= kSmall) {
    for (int k = 0; k < g.class_count; ++k) g.classes[k].inverse = 0.0;
    std::memset(g.class_of_bin, 0, sizeof g.class_of_bin);
    if (g.class_count > 1) {
      g.classes[0].smallest = g.classes[g.class_count - 1].smallest;
      g.class_count = 1;
    }
  }
  assign_slots(g, a, n, row_of);
  g.rects = take_rects(scratch, n);
  const bool volume = a.metric == NmsMetric::volume;
  g.z = volume ? scratch.take<double>(n) : nullptr;
  g.hz = volume ? scratch.take<double>(n) : nullptr;
  put_boxes(g, a, n, row_of);
}

// ---- one box against the kept ones

struct Query {
  Rect<vdouble> rect;
  vdouble radius, area, z, hz;
  double threshold;
  vdouble lower;  // a little below the threshold, so that rounding of the IoU cannot pass it
  vdouble share;  // intersection over the sum of areas that an IoU of `lower` takes
};

template <class T, bool kVolume>
bool meets(const Grid& g, const Query& q, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += kWide) {
    const vdouble dx = load_lanes(g.rects.cx + at) - q.rect.cx;
    const vdouble dy = load_lanes(g.rects.cy + at) - q.rect.cy;
    const vdouble reach = load_lanes(g.rects.r + at) + q.radius;
    const uint32_t near = lane_bits(less_equal(dx * dx + dy * dy, reach * reach)) & first_bits(end - at);
    if (near == 0) continue;
    const Rect<vdouble> other = rect_load(g.rects, at);
    const vdouble area = rect_area(other);
    const dmask similar = less_equal(max_of(area, q.area) * q.lower, min_of(area, q.area));
    const uint32_t lanes = near & lane_bits(similar);
    if (lanes == 0) continue;
    const vdouble needed = (area + q.area) * q.share;
    vdouble inter = intersection_area(q.rect, other, needed, lane_mask_of(lanes));
    vdouble size = area, own = q.area;
    if constexpr (kVolume) {
      const vdouble h = load_lanes(g.hz + at);
      inter = inter * interval_overlap(load_lanes(g.z + at) - q.z, q.hz, h);
      size = area * (h * 2.0);
      own = q.area * (q.hz * 2.0);
    }
    const vdouble iou = rounded(over_union(inter, own, size), T{});
    if ((lane_bits(less(splat<vdouble>(q.threshold), iou)) & lanes) != 0) return true;
  }
  return false;
}

// Whether boxes of a class can reach the threshold with one of radius r: IoU <= sqrt(2) times the ratio of the
// circumscribed radii, because the smaller box covers no more than its diameter of the longer box's length.
inline bool sizes_fit(const SizeClass& c, double r, double lower) {
  return lower * r <= 1.4143 * c.radius && lower * c.smallest <= 1.4143 * r;
}

template <class T, bool kVolume>
bool meets_class(const Grid& g, const Query& q, int k, double x, double y, double wx, double wy, int64_t visited) {
  const SizeClass& c = g.classes[k];
  const auto visit = [&](int64_t place) {
    const Cell& cell = g.table[place];
    return place != visited && cell.kept > 0 && meets<T, kVolume>(g, q, cell.start, int64_t{cell.start} + cell.kept);
  };
  int64_t x0 = 0, x1 = 0, y0 = 0, y1 = 0;
  if (c.inverse > 0.0) {
    const double pad = 1e-6 / c.inverse;  // the cell index is rounded, at most by 2^-24 cells
    x0 = cell_of(x - (wx + c.radius + pad), c.inverse);
    x1 = cell_of(x + (wx + c.radius + pad), c.inverse);
    y0 = cell_of(y - (wy + c.radius + pad), c.inverse);
    y1 = cell_of(y + (wy + c.radius + pad), c.inverse);
  }
  if ((x1 - x0 + 1) * (y1 - y0 + 1) > c.cell_count) {
    for (int32_t i = 0; i < c.cell_count; ++i)
      if (visit(g.cells[c.first_cell + i])) return true;
    return false;
  }
  for (int64_t ix = x0; ix <= x1; ++ix)
    for (int64_t iy = y0; iy <= y1; ++iy)
      if (visit(find_cell(g, cell_key(k, ix, iy)))) return true;
  return false;
}

// The slot of a kept box moves to the front of its cell: everything between has been decided before.
inline void move_to_front(Grid& g, Cell& cell, int32_t from) {
  const int32_t to = cell.start + cell.kept++;
  if (to == from) return;
  const RectArrays& r = g.rects;
  for (double* field : {r.cx, r.cy, r.hx, r.hy, r.c, r.s, r.r}) field[to] = field[from];
  if (g.z == nullptr) return;
  g.z[to] = g.z[from];
  g.hz[to] = g.hz[from];
}

template <class T>
Query make_query(const Grid& g, const NmsRotatedArgs<T>& a) {
  Query q{};
  q.threshold = a.iou_threshold;
  const double lower = a.iou_threshold * (1.0 - 1e-6);
  q.lower = splat<vdouble>(lower);
  q.share = splat<vdouble>(lower / (1.0 + lower) * (1.0 - 1e-9));
  return q;
}

// Decides one group. Ranks are places in a.keep, best first; a dropped row is replaced by its complement.
template <class T, bool kVolume>
void suppress(const NmsRotatedArgs<T>& a, const int32_t* ranks, int64_t n, int64_t limit) {
  const auto rank_of = [&](int64_t i) { return ranks == nullptr ? i : int64_t{ranks[i]}; };
  const auto row_of = [&](int64_t i) { return int64_t{a.keep[rank_of(i)]}; };
  const auto drop = [&](int64_t i) { a.keep[rank_of(i)] = ~a.keep[rank_of(i)]; };
  int64_t kept = 0;
  int64_t i = 0;
  if (n == 1 || a.iou_threshold >= 1.0) {  // nothing can be suppressed
    i = n < limit ? n : limit;
    for (; i < n; ++i) drop(i);
    return;
  }
  Scratch scratch;
  Grid g;
  build_grid(scratch, g, a, n, row_of);
  Query q = make_query(g, a);
  const double lower = a.iou_threshold * (1.0 - 1e-6);
  for (; i < n && kept < limit; ++i) {
    const int32_t at = g.slot[i];
    if (at < 0) {  // without extent it meets nothing
      ++kept;
      continue;
    }
    const Rect<double> own = rect_at(g.rects, at);
    const double r = g.rects.r[at];
    q.rect = rect_splat(g.rects, at);
    q.radius = splat<vdouble>(r);
    q.area = rect_area(q.rect);
    if constexpr (kVolume) {
      q.z = splat<vdouble>(g.z[at]);
      q.hz = splat<vdouble>(g.hz[at]);
    }
    const int k = g.class_of_bin[radius_bin(own.hx * own.hx + own.hy * own.hy)];
    const double inverse = g.classes[k].inverse;
    const int64_t home = find_cell(g, cell_key(k, cell_of(own.cx, inverse), cell_of(own.cy, inverse)));
    Cell& cell = g.table[home];
    bool met = meets<T, kVolume>(g, q, cell.start, int64_t{cell.start} + cell.kept);
    const double wx = magnitude(own.hx * own.c) + magnitude(own.hy * own.s);
    const double wy = magnitude(own.hx * own.s) + magnitude(own.hy * own.c);
    for (int other = 0; other < g.class_count && !met; ++other) {
      const SizeClass& c = g.classes[other];
      if (c.kept > 0 && sizes_fit(c, r, lower)) met = meets_class<T, kVolume>(g, q, other, own.cx, own.cy, wx, wy, home);
    }
    if (met) {
      drop(i);
      continue;
    }
    ++kept;
    ++g.classes[k].kept;
    move_to_front(g, cell, at);
  }
  for (; i < n; ++i) drop(i);
}

template <class T>
void suppress_group(const NmsRotatedArgs<T>& a, const int32_t* ranks, int64_t n, int64_t limit) {
  if (a.metric == NmsMetric::volume) return suppress<T, true>(a, ranks, n, limit);
  suppress<T, false>(a, ranks, n, limit);
}

// ---- ranking, groups and limits

template <class T>
bool validate_rows(NmsRotatedArgs<T>& a) {
  const RectFormat format = format_of(a);
  for (int64_t i = 0; i < a.n; ++i) {
    const bool finite = box_extent(a.boxes + i * a.columns, format) != Extent::not_finite;
    if (finite && !std::isnan(a.scores[i])) continue;
    a.bad_what = finite ? 2 : 1;
    a.bad_row = i;
    return false;
  }
  return true;
}

// Leaves the candidates' rows in a.keep, best first, and returns their number.
template <class T>
int64_t rank_rows(NmsRotatedArgs<T>& a) {
  using Key = decltype(float_order_bits(T{}));
  const RectFormat format = format_of(a);
  Scratch scratch;
  Key* key = scratch.take<Key>(a.n);
  int64_t m = 0;
  for (int64_t i = 0; i < a.n; ++i) {
    if (std::isnan(a.scores[i])) continue;
    if (box_extent(a.boxes + i * a.columns, format) == Extent::not_finite) continue;
    key[m] = static_cast<Key>(~float_order_bits(a.scores[i]));  // ascending key = descending score
    a.keep[m++] = static_cast<int32_t>(i);
  }
  radix_sort(key, a.keep, m);
  return m;
}

// Stable sort of ranks by the value of their rows; only equality matters, so the bits serve as key.
template <class T>
void sort_by(const NmsRotatedArgs<T>& a, const int64_t* values, int32_t* ranks, int64_t n) {
  if (values == nullptr) return;
  Scratch scratch;
  uint64_t* key = scratch.take<uint64_t>(n);
  for (int64_t i = 0; i < n; ++i) key[i] = static_cast<uint64_t>(values[a.keep[ranks[i]]]);
  radix_sort(key, ranks, n);
}

// End of the run of equal values that starts at `begin`.
template <class Same>
int64_t run_end(int64_t begin, int64_t n, Same&& same) {
  int64_t end = begin + 1;
  while (end < n && same(begin, end)) ++end;
  return end;
}

// The rows behind decided ranks, dropped (complemented) or not.
template <class T>
int64_t decided_row(const NmsRotatedArgs<T>& a, int32_t rank) {
  const int32_t row = a.keep[rank];
  return row < 0 ? ~row : row;
}

// Keeps the pre_max best ranks of each batch element and returns how many are left.
template <class T>
int64_t limit_candidates(NmsRotatedArgs<T>& a, int32_t* ranks, int64_t n) {
  if (a.pre_max < 0 || a.batch == nullptr) return n;
  sort_by(a, a.batch, ranks, n);
  const auto same = [&](int64_t i, int64_t j) {
    return a.batch[decided_row(a, ranks[i])] == a.batch[decided_row(a, ranks[j])];
  };
  int64_t left = 0;
  for (int64_t begin = 0; begin < n;) {
    const int64_t end = run_end(begin, n, same);
    for (int64_t i = begin; i < end; ++i) {
      if (i - begin < a.pre_max) {
        ranks[left++] = ranks[i];
      } else {
        a.keep[ranks[i]] = ~a.keep[ranks[i]];
      }
    }
    begin = end;
  }
  return left;
}

// Drops what exceeds post_max in each batch element; the labels' groups were limited one by one.
template <class T>
void limit_results(NmsRotatedArgs<T>& a, const int32_t* ranks, int64_t n, int64_t limit) {
  if (a.batch == nullptr || a.labels == nullptr || a.post_max < 0) return;
  const auto same = [&](int64_t i, int64_t j) {
    return a.batch[decided_row(a, ranks[i])] == a.batch[decided_row(a, ranks[j])];
  };
  for (int64_t begin = 0; begin < n;) {
    const int64_t end = run_end(begin, n, same);
    Scratch scratch;
    uint32_t* key = scratch.take<uint32_t>(end - begin);
    int32_t* kept = scratch.take<int32_t>(end - begin);
    int64_t count = 0;
    for (int64_t i = begin; i < end; ++i) {
      if (a.keep[ranks[i]] < 0) continue;
      key[count] = static_cast<uint32_t>(ranks[i]);
      kept[count++] = ranks[i];
    }
    if (count > limit) {
      radix_sort(key, kept, count);
      for (int64_t i = limit; i < count; ++i) a.keep[kept[i]] = ~a.keep[kept[i]];
    }
    begin = end;
  }
}

template <class T>
void suppress_groups(NmsRotatedArgs<T>& a, int64_t m, int64_t limit) {
  Scratch scratch;
  int32_t* ranks = scratch.take<int32_t>(m);
  for (int64_t i = 0; i < m; ++i) ranks[i] = static_cast<int32_t>(i);
  const int64_t n = limit_candidates(a, ranks, m);
  sort_by(a, a.labels, ranks, n);
  sort_by(a, a.batch, ranks, n);
  const auto same = [&](int64_t i, int64_t j) {
    const int64_t p = decided_row(a, ranks[i]);
    const int64_t q = decided_row(a, ranks[j]);
    return (a.labels == nullptr || a.labels[p] == a.labels[q]) && (a.batch == nullptr || a.batch[p] == a.batch[q]);
  };
  // Tasks begin where groups do, and hold enough boxes to be worth a thread.
  int64_t* task_begin = scratch.take<int64_t>(n / kTaskBoxes + 2);
  int64_t tasks = 0;
  task_begin[0] = 0;
  for (int64_t begin = 0; begin < n;) {
    const int64_t end = run_end(begin, n, same);
    if (end - task_begin[tasks] >= kTaskBoxes || end == n) task_begin[++tasks] = end;
    begin = end;
  }
  parallel_tasks(a.parallel, tasks, [&](int64_t task) {
    for (int64_t begin = task_begin[task]; begin < task_begin[task + 1];) {
      const int64_t end = run_end(begin, task_begin[task + 1], same);
      suppress_group(a, ranks + begin, end - begin, limit);
      begin = end;
    }
  });
  limit_results(a, ranks, n, limit);
}

template <class T>
void nms_rotated(NmsRotatedArgs<T>& a) {
  a.kept = 0;
  a.bad_row = -1;
  a.bad_what = 0;
  if (a.validate && !validate_rows(a)) return;
  int64_t m = rank_rows(a);
  if (a.batch == nullptr && a.pre_max >= 0 && a.pre_max < m) m = a.pre_max;
  const int64_t limit = a.post_max < 0 || a.post_max > m ? m : a.post_max;
  if (m == 0 || limit == 0) return;
  if (a.labels == nullptr && a.batch == nullptr) {
    suppress_group(a, nullptr, m, limit);
  } else {
    suppress_groups(a, m, limit);
  }
  const int64_t most = a.batch == nullptr ? limit : m;
  for (int64_t rank = 0; rank < m && a.kept < most; ++rank)
    if (a.keep[rank] >= 0) a.keep[a.kept++] = a.keep[rank];
}

}  // namespace

void nms_rotated_f32(NmsRotatedArgs<float>& args) { nms_rotated(args); }
void nms_rotated_f64(NmsRotatedArgs<double>& args) { nms_rotated(args); }

TENFOLD_END
