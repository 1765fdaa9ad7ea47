#include "nms/nms_rotated.h"

#include "common/radix.h"
#include "common/vec.h"
#include "iou/rects.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kTaskBoxes = 2048;
constexpr int64_t kSmall = 64;  // up to here one list of kept boxes beats the grid
constexpr int64_t kAhead = 16;  // boxes are visited in rank order, which is random in memory
constexpr int kClasses = 16;
constexpr int kFewKept = 16;  // more kept boxes in a cell: the nearest is no longer a good guess
constexpr int kBins = 1024;
constexpr int64_t kFarCell = int64_t{1} << 28;
constexpr int kTile = 8;  // cells a side
constexpr int kTileCells = kTile * kTile;
constexpr int64_t kMostTiles = int64_t{1} << 20;  // of a class: places fit in 32 bits

template <class T>
RectFormat format_of(const NmsRotatedArgs<T>& a) {
  return {a.columns, a.metric == NmsMetric::aligned_bev, a.metric == NmsMetric::volume};
}

// ---- a grid of the boxes' centres; each cell holds its kept boxes side by side, ready for vector loads
//
// Tiles of 8 x 8 cells are hashed into a table without keys: tiles that meet there share their cells, which costs
// some distance tests and needs no probing; neighbouring cells stay neighbours in memory.

struct Cell {
  int32_t start;  // first slot of the cell; it has a slot for each of its boxes, should all be kept
  int32_t kept;   // slots in use
};

// Boxes of similar size share a grid: the cell is the largest circumscribed diameter of the class.
struct SizeClass {
  double radius, smallest;
  double inverse;  // of the cell's side; 0: one cell for all
  int64_t boxes, kept;
  int64_t first_cell;  // of its part of the table
  uint64_t tiles;
};

struct Boxes {
  RectArrays rects;
  double *z, *hz;  // for volumes
};

struct Grid {
  Boxes kept;     // by slot
  int32_t* home;  // place in the table of each box's cell, -1 without extent
  Cell* table;
  int64_t cells;
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

inline int64_t cell_index(double x, double inverse) {
  double q = std::floor(x * inverse);
  q = min_of(max_of(q, -static_cast<double>(kFarCell)), static_cast<double>(kFarCell));
  return static_cast<int64_t>(q);
}

// Place in the table of a cell of a class.
inline int64_t cell_place(const SizeClass& c, int64_t ix, int64_t iy) {
  const uint64_t key = static_cast<uint64_t>(ix >> 3) << 32 ^ static_cast<uint32_t>(iy >> 3);
  const uint64_t hash = (key * 0x9e3779b97f4a7c15u ^ key >> 29) * 0xbf58476d1ce4e5b9u >> 32;
  const uint64_t tile = (hash * c.tiles) >> 32;
  return c.first_cell + static_cast<int64_t>(tile * kTileCells) + (ix & 7) * kTile + (iy & 7);
}

// A class takes the bin of its largest box and the one below: sizes within a factor of four.
void make_classes(Grid& g, const double* largest, const double* smallest, const int32_t* count) {
  g.class_count = 0;
  int lowest = kBins;  // of the open class
  for (int bin = kBins - 1; bin >= 0; --bin) {
    if (count[bin] == 0) continue;
    if (bin < lowest && g.class_count < kClasses) {
      g.classes[g.class_count++] = {radius_above(largest[bin]), 0.0, 0.0, 0, 0, 0, 0};
      lowest = bin - 1;
    }
    SizeClass& c = g.classes[g.class_count - 1];
    c.smallest = std::sqrt(smallest[bin]);
    c.boxes += count[bin];
    g.class_of_bin[bin] = static_cast<int8_t>(g.class_count - 1);
  }
  for (int k = 0; k < g.class_count; ++k) {
    SizeClass& c = g.classes[k];
    c.inverse = c.radius < 1e150 ? 0.5 / max_of(c.radius, 1e-150) : 0.0;
  }
}

// Finds the size classes; leaves each box's bin in g.home.
template <class T, class RowOf>
void classify(Grid& g, const NmsRotatedArgs<T>& a, int64_t n, RowOf&& row_of) {
  const RectFormat format = format_of(a);
  const int size = a.columns == 7 ? 3 : 2;
  Scratch temporary;
  double* largest = temporary.zeros<double>(kBins);
  double* smallest = temporary.take<double>(kBins);
  int32_t* count = temporary.zeros<int32_t>(kBins);
  for (int bin = 0; bin < kBins; ++bin) smallest[bin] = HUGE_VAL;
  for (int64_t i = 0; i < n; ++i) {
    prefetch(a.boxes + row_of(i + kAhead < n ? i + kAhead : i) * a.columns);
    const T* row = a.boxes + row_of(i) * a.columns;
    g.home[i] = -1;
    if (box_extent(row, format) != Extent::full) continue;
    const double hx = 0.5 * static_cast<double>(row[size]);
    const double hy = 0.5 * static_cast<double>(row[size + 1]);
    const double squared = hx * hx + hy * hy;
    const int bin = radius_bin(squared);
    largest[bin] = max_of(largest[bin], squared);
    smallest[bin] = min_of(smallest[bin], squared);
    ++count[bin];
    g.home[i] = bin;
  }
  make_classes(g, largest, smallest, count);
}

void make_table(Scratch& scratch, Grid& g) {
  for (int k = 0; k < g.class_count; ++k) {
    SizeClass& c = g.classes[k];
    const int64_t tiles = c.boxes / (kTileCells / 2) + 1;
    c.tiles = static_cast<uint64_t>(tiles < kMostTiles ? tiles : kMostTiles);
    c.first_cell = g.cells;
    g.cells += static_cast<int64_t>(c.tiles) * kTileCells;
  }
  g.table = scratch.zeros<Cell>(g.cells);
}

// Turns the bins in g.home into places in the table and gives every cell its slots.
template <class T, class RowOf>
void assign_cells(Grid& g, const NmsRotatedArgs<T>& a, int64_t n, RowOf&& row_of) {
  for (int64_t i = 0; i < n; ++i) {
    prefetch(a.boxes + row_of(i + kAhead < n ? i + kAhead : i) * a.columns);
    if (g.home[i] < 0) continue;
    const T* row = a.boxes + row_of(i) * a.columns;
    const SizeClass& c = g.classes[g.class_of_bin[g.home[i]]];
    const int64_t place = cell_place(c, cell_index(row[0], c.inverse), cell_index(row[1], c.inverse));
    ++g.table[place].kept;
    g.home[i] = static_cast<int32_t>(place);
  }
  int32_t slots = 0;
  for (int64_t place = 0; place < g.cells; ++place) {
    Cell& cell = g.table[place];
    cell.start = slots;
    slots += cell.kept;
    cell.kept = 0;
  }
}

Boxes take_boxes(Scratch& scratch, int64_t n, bool volume) {
  Boxes boxes{take_rects(scratch, n), nullptr, nullptr};
  if (volume) {
    boxes.z = scratch.take<double>(n);
    boxes.hz = scratch.take<double>(n);
  }
  return boxes;
}

// Few boxes: one class, one cell.
void one_cell(Grid& g, int64_t n) {
  if (g.class_count == 0) return;
  SizeClass& c = g.classes[0];
  c.smallest = g.classes[g.class_count - 1].smallest;
  c.inverse = 0.0;
  c.boxes = n;
  g.class_count = 1;
  std::memset(g.class_of_bin, 0, sizeof g.class_of_bin);
}

template <class T, class RowOf>
void build_grid(Scratch& scratch, Grid& g, const NmsRotatedArgs<T>& a, int64_t n, RowOf&& row_of) {
  g.cells = 0;
  g.home = scratch.take<int32_t>(n);
  classify(g, a, n, row_of);
  if (n <= kSmall) one_cell(g, n);
  make_table(scratch, g);
  assign_cells(g, a, n, row_of);
  g.kept = take_boxes(scratch, n, a.metric == NmsMetric::volume);
}

// ---- one box against the kept ones

struct Query {
  Rect<vdouble> rect;
  vdouble radius, area, z, hz;
  double threshold, least;
  vdouble lower;  // `least`: a little below the threshold, so that rounding of the IoU cannot pass it
  vdouble share;  // intersection over the sum of areas that an IoU of `lower` takes
};

template <class T, bool kVolume>
bool meets(const Grid& g, const Query& q, int64_t begin, int64_t end) {
  for (int64_t at = begin; at < end; at += kWide) {
    const vdouble dx = load_lanes(g.kept.rects.cx + at) - q.rect.cx;
    const vdouble dy = load_lanes(g.kept.rects.cy + at) - q.rect.cy;
    const vdouble reach = load_lanes(g.kept.rects.r + at) + q.radius;
    const uint32_t near = lane_bits(less_equal(dx * dx + dy * dy, reach * reach)) & first_bits(end - at);
    if (near == 0) continue;
    const Rect<vdouble> other = rect_load(g.kept.rects, at);
    const vdouble area = rect_area(other);
    const dmask similar = less_equal(max_of(area, q.area) * q.lower, min_of(area, q.area));
    const uint32_t lanes = near & lane_bits(similar);
    if (lanes == 0) continue;
    const vdouble needed = (area + q.area) * q.share;
    vdouble inter = intersection_area(q.rect, other, needed, lane_mask_of(lanes));
    vdouble size = area, own = q.area;
    if constexpr (kVolume) {
      const vdouble h = load_lanes(g.kept.hz + at);
      inter = inter * interval_overlap(load_lanes(g.kept.z + at) - q.z, q.hz, h);
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
    x0 = cell_index(x - (wx + c.radius + pad), c.inverse);
    x1 = cell_index(x + (wx + c.radius + pad), c.inverse);
    y0 = cell_index(y - (wy + c.radius + pad), c.inverse);
    y1 = cell_index(y + (wy + c.radius + pad), c.inverse);
  }
  const int64_t cells = static_cast<int64_t>(c.tiles) * kTileCells;
  if ((x1 - x0 + 1) * (y1 - y0 + 1) > cells) {
    for (int64_t place = c.first_cell; place < c.first_cell + cells; ++place)
      if (visit(place)) return true;
    return false;
  }
  for (int64_t ix = x0; ix <= x1; ++ix)
    for (int64_t iy = y0; iy <= y1; ++iy)
      if (visit(cell_place(c, ix, iy))) return true;
  return false;
}

inline void keep_box(Grid& g, Cell& cell, const Boxes& block, int lane) {
  const int32_t to = cell.start + cell.kept++;
  const RectArrays &k = g.kept.rects, &b = block.rects;
  k.cx[to] = b.cx[lane];
  k.cy[to] = b.cy[lane];
  k.hx[to] = b.hx[lane];
  k.hy[to] = b.hy[lane];
  k.c[to] = b.c[lane];
  k.s[to] = b.s[lane];
  k.r[to] = b.r[lane];
  if (block.z == nullptr) return;
  g.kept.z[to] = block.z[lane];
  g.kept.hz[to] = block.hz[lane];
}

// Reads up to kWide boxes that are next in rank.
template <class T, class RowOf>
void load_block(const Boxes& block, const NmsRotatedArgs<T>& a, int64_t first, int count, RowOf&& row_of) {
  const RectFormat format = format_of(a);
  for (int lane = 0; lane < count; ++lane) {
    const T* row = a.boxes + row_of(first + lane) * a.columns;
    put_rect(block.rects, lane, row, format);
    if (!format.volume) continue;
    block.z[lane] = row[2];
    block.hz[lane] = 0.5 * static_cast<double>(row[5]);
  }
  finish_angles(block.rects, count);
}

// What the next blocks will read: rows and cells two blocks ahead, the cells' kept boxes one ahead.
template <class T, class RowOf>
void prefetch_block(const Grid& g, const NmsRotatedArgs<T>& a, int64_t first, int64_t n, RowOf&& row_of) {
  for (int64_t i = first + kWide; i < first + 2 * kWide && i < n; ++i) {
    prefetch(a.boxes + row_of(i) * a.columns);
    if (g.home[i] >= 0) prefetch(g.table + g.home[i]);
  }
  for (int64_t i = first; i < first + kWide && i < n; ++i) {
    if (g.home[i] < 0) continue;
    const int32_t start = g.table[g.home[i]].start;
    for (const double* field : {g.kept.rects.cx, g.kept.rects.cy, g.kept.rects.r}) prefetch(field + start);
  }
}

template <class T>
Query make_query(const NmsRotatedArgs<T>& a) {
  Query q{};
  q.threshold = a.iou_threshold;
  const double lower = a.iou_threshold * (1.0 - 1e-6);
  q.least = lower;
  q.lower = splat<vdouble>(lower);
  q.share = splat<vdouble>(lower / (1.0 + lower) * (1.0 - 1e-9));
  return q;
}

// Most dropped boxes fall to the nearest kept box of their cell. This tries that one box for all of a block at
// once, which takes hardly longer than for one, and returns the bits of those it drops.
template <class T, bool kVolume>
uint32_t dropped_by_nearest(const Grid& g, const Query& q, const Boxes& block, const int32_t* home, int count) {
  int32_t nearest[kWide] = {};
  uint32_t lanes = 0;
  const RectArrays& kept = g.kept.rects;
  for (int lane = 0; lane < count; ++lane) {
    if (home[lane] < 0) continue;
    const Cell& cell = g.table[home[lane]];
    if (cell.kept == 0 || cell.kept > kFewKept) continue;
    double best = HUGE_VAL;
    for (int32_t other = cell.start; other < cell.start + cell.kept; ++other) {
      const double dx = kept.cx[other] - block.rects.cx[lane];
      const double dy = kept.cy[other] - block.rects.cy[lane];
      const double d = dx * dx + dy * dy;
      nearest[lane] = d < best ? other : nearest[lane];
      best = min_of(d, best);
    }
    lanes |= best < HUGE_VAL ? 1u << lane : 0u;
  }
  if (lanes == 0) return 0;
  const Rect<vdouble> own = rect_load(block.rects, 0), other = rect_gather(kept, nearest);
  vdouble size = rect_area(own), other_size = rect_area(other);
  vdouble inter = intersection_area(own, other, (size + other_size) * q.share, lane_mask_of(lanes));
  if constexpr (kVolume) {
    const vdouble h = load_lanes(block.hz), other_h = gather(g.kept.hz, nearest);
    inter = inter * interval_overlap(gather(g.kept.z, nearest) - load_lanes(block.z), h, other_h);
    size = size * (h * 2.0);
    other_size = other_size * (other_h * 2.0);
  }
  const vdouble iou = rounded(over_union(inter, size, other_size), T{});
  return lane_bits(less(splat<vdouble>(q.threshold), iou)) & lanes;
}

// Whether a kept box suppresses one of the block.
template <class T, bool kVolume>
bool is_suppressed(const Grid& g, Query& q, const Boxes& block, int lane, int64_t home) {
  const Rect<double> own = rect_at(block.rects, lane);
  const double r = block.rects.r[lane];
  q.rect = rect_splat(block.rects, lane);
  q.radius = splat<vdouble>(r);
  q.area = rect_area(q.rect);
  if constexpr (kVolume) {
    q.z = splat<vdouble>(block.z[lane]);
    q.hz = splat<vdouble>(block.hz[lane]);
  }
  const Cell& cell = g.table[home];
  if (meets<T, kVolume>(g, q, cell.start, int64_t{cell.start} + cell.kept)) return true;
  const double wx = magnitude(own.hx * own.c) + magnitude(own.hy * own.s);
  const double wy = magnitude(own.hx * own.s) + magnitude(own.hy * own.c);
  for (int other = 0; other < g.class_count; ++other) {
    const SizeClass& c = g.classes[other];
    if (c.kept == 0 || !sizes_fit(c, r, q.least)) continue;
    if (meets_class<T, kVolume>(g, q, other, own.cx, own.cy, wx, wy, home)) return true;
  }
  return false;
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
    for (i = n < limit ? n : limit; i < n; ++i) drop(i);
    return;
  }
  Scratch scratch;
  Grid g;
  build_grid(scratch, g, a, n, row_of);
  const Boxes block = take_boxes(scratch, kWide, kVolume);
  Query q = make_query(a);
  uint32_t dropped = 0;
  for (; i < n && kept < limit; ++i) {
    const int lane = static_cast<int>(i % kWide);
    if (lane == 0) {
      const int count = static_cast<int>(n - i < kWide ? n - i : kWide);
      prefetch_block(g, a, i + kWide, n, row_of);
      load_block(block, a, i, count, row_of);
      dropped = dropped_by_nearest<T, kVolume>(g, q, block, g.home + i, count);
    }
    const int32_t home = g.home[i];
    if (home < 0) {  // without extent it meets nothing
      ++kept;
    } else if ((dropped >> lane & 1) != 0 || is_suppressed<T, kVolume>(g, q, block, lane, home)) {
      drop(i);
    } else {
      const double hx = block.rects.hx[lane], hy = block.rects.hy[lane];
      ++g.classes[g.class_of_bin[radius_bin(hx * hx + hy * hy)]].kept;
      keep_box(g, g.table[home], block, lane);
      ++kept;
    }
  }
  for (; i < n; ++i) drop(i);
}

template <class T>
void suppress_group(const NmsRotatedArgs<T>& a, const int32_t* ranks, int64_t n, int64_t limit) {
  if (a.metric == NmsMetric::volume) return suppress<T, true>(a, ranks, n, limit);
  suppress<T, false>(a, ranks, n, limit);
}

// ---- ranking, groups and limits

// Leaves the candidates' rows in a.keep, best first, and returns their number; with validation, the first row
// that is no candidate ends it.
template <class T>
int64_t rank_rows(NmsRotatedArgs<T>& a) {
  using Key = decltype(float_order_bits(T{}));
  const RectFormat format = format_of(a);
  Scratch scratch;
  Key* key = scratch.take<Key>(a.n);
  int64_t m = 0;
  for (int64_t i = 0; i < a.n; ++i) {
    const bool finite = box_extent(a.boxes + i * a.columns, format) != Extent::not_finite;
    if (finite && !std::isnan(a.scores[i])) {
      key[m] = static_cast<Key>(~float_order_bits(a.scores[i]));  // ascending key = descending score
      a.keep[m++] = static_cast<int32_t>(i);
    } else if (a.validate) {
      a.bad_what = finite ? 2 : 1;
      a.bad_row = i;
      return 0;
    }
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
