#include "points_in_boxes/points_in_boxes.h"

#include <cmath>
#include <limits>

#include "common/arena.h"
#include "common/grid.h"
#include "common/vec.h"
#include "points_in_boxes/inside.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kBruteBoxes = 8;
constexpr int64_t kBrutePoints = 128;

template <class T>
struct Box : PlacedBox<T> {
  int32_t row;           // in its element
  int32_t low[2], high[2];  // cells in x and y
  bool whole;            // covers so many cells that all points are tried
};

template <class T>
struct Element {
  BoxElement rows;
  int64_t first_piece;
  int64_t first_place;  // of its boxes in args.place
  Box<T>* boxes;        // those that can hold a point
  int64_t num_boxes;
  bool brute;
  Cells<T> cells;
  uint8_t* covered;  // per bucket, and a zero behind for points outside the grid
  T z_low, z_high;
  int bad_what;
  int64_t bad_row;
};

int64_t table_room(int64_t points) {
  return table_size(points < kBoxPiece ? points : kBoxPiece) / 4;
}

// Columns of n points in rows of three, a vector of points at a time where two permutations a column do it.
static inline int columns_of_vectors(const double*, int, double*, double*, double*) { return 0; }
#if defined(__AVX512F__)
static inline int columns_of_vectors(const float* p, int n, float* x, float* y, float* z) {
  float* const to[3] = {x, y, z};
  vint low[3], high[3];
  for (int a = 0; a < 3; ++a) {
    for (int i = 0; i < kLanes; ++i) {
      const int at = 3 * i + a;
      low[a][i] = at < 2 * kLanes ? at : 0;
      high[a][i] = at < 2 * kLanes ? i : at - kLanes;
    }
  }
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m512 first = _mm512_loadu_ps(p + 3 * i), second = _mm512_loadu_ps(p + 3 * i + kLanes),
                 third = _mm512_loadu_ps(p + 3 * i + 2 * kLanes);
    for (int a = 0; a < 3; ++a)
      _mm512_storeu_ps(to[a] + i, _mm512_permutex2var_ps(_mm512_permutex2var_ps(first, (__m512i)low[a], second),
                                                         (__m512i)high[a], third));
  }
  return i;
}
static inline vint vselect(lane_mask m, vint a, vint b) {
  return (vint)_mm512_mask_blend_epi32(static_cast<__mmask16>(m), (__m512i)b, (__m512i)a);
}
#else
static inline int columns_of_vectors(const float*, int, float*, float*, float*) { return 0; }
// Lanes of a where the bit is set, of b elsewhere.
static inline vint vselect(lane_mask m, vint a, vint b) {
  const vint bit = vset(1) << viota();
  return (vset(static_cast<int32_t>(m)) & bit) != 0 ? a : b;
}
#endif

// ---- the test -------------------------------------------------------------------------------------------

static inline lane_mask inside(const Box<float>& box, float* const* column, int64_t i) {
  const vint sign = vset(INT32_MAX);
  const auto magnitude = [&](vfloat v) { return (vfloat)((vint)v & sign); };
  const vfloat dx = vload(column[0] + i) - box.center[0];
  const vfloat dy = vload(column[1] + i) - box.center[1];
  const vfloat dz = vload(column[2] + i) - box.center[2];
  const vfloat lx = dx * box.cosine + dy * box.sine;
  const vfloat ly = dy * box.cosine - dx * box.sine;
  return vlt(magnitude(lx), vset(box.half[0])) & vlt(magnitude(ly), vset(box.half[1])) &
         vle(magnitude(dz), vset(box.half[2]));
}
static inline lane_mask inside(const Box<double>& box, double* const* column, int64_t i) {
  lane_mask m = 0;
  for (int l = 0; l < kLanes; ++l)
    m |= static_cast<lane_mask>(inside_box(box, column[0][i + l], column[1][i + l], column[2][i + l])) << l;
  return m;
}

// ---- boxes ----------------------------------------------------------------------------------------------

// Half the extent in x (axis 0) or y that no point inside exceeds. With u the rounding unit, a point that
// passes has |local| <= half + 5 u * distance, so its true offset is below |c| hx + |s| hy by a relative
// error of a few u; 1e-5 is far above that for float and double, the constant covers denormal sizes.
template <class T>
double reach(const Box<T>& box, int axis) {
  const double along = axis == 0 ? box.half[0] : box.half[1];
  const double across = axis == 0 ? box.half[1] : box.half[0];
  const double exact = std::fabs(double(box.cosine)) * along + std::fabs(double(box.sine)) * across;
  return exact + 1e-5 * (along + across) + std::numeric_limits<float>::min();
}

template <class T>
void collect_boxes(const PointsInBoxesArgs<T>& args, Element<T>& element) {
  const T margin = static_cast<T>(args.margin);
  const T z_margin = static_cast<T>(args.z_margin);
  element.num_boxes = 0;
  for (int64_t j = 0; j < element.rows.box_count; ++j) {
    const T* b = args.boxes + 7 * (element.rows.box_begin + j);
    if (!usable(b)) continue;
    Box<T>& box = element.boxes[element.num_boxes++];
    place_box(b, margin, z_margin, box);
    box.row = static_cast<int32_t>(j);
  }
}

template <class T>
void cover_row(const Cells<T>& cells, uint8_t* covered, int32_t cy, int32_t xlo, int32_t xhi) {
  const int64_t length = int64_t{xhi} - xlo + 1;
  const int64_t first = (cells.row(cy, 0) + static_cast<uint32_t>(xlo)) & cells.mask;
  const int64_t straight = first + length <= cells.buckets ? length : cells.buckets - first;
  std::memset(covered + first, 1, static_cast<size_t>(straight));
  std::memset(covered, 1, static_cast<size_t>(length - straight));
}

// Cells of about half a typical box, over the boxes' area only; marks those that a box reaches.
template <class T>
void build_cells(Element<T>& element) {
  double low[3], high[3], log_size = 0;
  for (int a = 0; a < 3; ++a) {
    low[a] = std::numeric_limits<double>::infinity();
    high[a] = -low[a];
  }
  for (int64_t j = 0; j < element.num_boxes; ++j) {
    const Box<T>& box = element.boxes[j];
    const double extent[3] = {reach(box, 0), reach(box, 1),
                              box.half[2] * 1.00001 + std::numeric_limits<float>::min()};
    for (int a = 0; a < 3; ++a) {
      low[a] = box.center[a] - extent[a] < low[a] ? box.center[a] - extent[a] : low[a];
      high[a] = box.center[a] + extent[a] > high[a] ? box.center[a] + extent[a] : high[a];
    }
    log_size += std::log(extent[0] + extent[1]);
  }
  const T inv = inverse_size(static_cast<T>(0.5 * std::exp(log_size / static_cast<double>(element.num_boxes))));
  const T inverse[3] = {inv, inv, 1};
  const T lo[3] = {static_cast<T>(low[0]), static_cast<T>(low[1]), 0};
  const T hi[3] = {static_cast<T>(high[0]), static_cast<T>(high[1]), 0};
  Cells<T>& cells = element.cells;
  cells.cover(lo, hi, inverse, table_room(element.rows.point_count));
  element.z_low = static_cast<T>(low[2]);
  element.z_high = static_cast<T>(high[2]);
  std::memset(element.covered, 0, static_cast<size_t>(cells.buckets + 1));
  bool any_whole = false;
  for (int64_t j = 0; j < element.num_boxes; ++j) {
    Box<T>& box = element.boxes[j];
    double area = 1;
    for (int a = 0; a < 2; ++a) {
      // Rounding to T is monotone and points are of type T: none is lost.
      box.low[a] = cell_of(static_cast<T>(box.center[a] - reach(box, a)), inv);
      box.high[a] = cell_of(static_cast<T>(box.center[a] + reach(box, a)), inv);
      area *= double(box.high[a]) - box.low[a] + 1;
    }
    box.whole = area > static_cast<double>(cells.buckets);
    any_whole |= box.whole;
    for (int32_t cy = box.low[1]; cy <= box.high[1] && !box.whole; ++cy)
      cover_row(cells, element.covered, cy, box.low[0], box.high[0]);
  }
  if (any_whole) std::memset(element.covered, 1, static_cast<size_t>(cells.buckets));
}

template <class T>
void prepare(const PointsInBoxesArgs<T>& args, Element<T>& element) {
  const BoxElement& rows = element.rows;
  element.bad_what = 0;
  if (args.validate) {
    element.bad_row = first_bad_row(args.points + 3 * rows.point_begin, rows.point_count);
    element.bad_what = element.bad_row >= 0 ? 1 : 0;
    const T* boxes = args.boxes + 7 * rows.box_begin;
    for (int64_t j = 0; j < rows.box_count && element.bad_what == 0; ++j) {
      if (all_finite(boxes + 7 * j, 7)) continue;
      element.bad_row = j;
      element.bad_what = 2;
    }
    if (element.bad_what != 0) return;
  }
  collect_boxes(args, element);
  element.brute = element.num_boxes < kBruteBoxes || rows.point_count < kBrutePoints;
  if (!element.brute) build_cells(element);
}

// ---- one piece of an element's points -------------------------------------------------------------------

template <class T>
class Piece {
 public:
  Piece(const PointsInBoxesArgs<T>& args, const Element<T>& element, int64_t piece)
      : args_(args), element_(element), piece_(piece), begin_(piece * kBoxPiece) {
    const int64_t left = element.rows.point_count - begin_;
    size_ = left < kBoxPiece ? left : kBoxPiece;
    points_ = args.points + 3 * (element.rows.point_begin + begin_);
    pieces_ = box_pieces(element.rows);
  }

  void run() {
    if (element_.brute) {
      brute_force();
      return;
    }
    Scratch scratch;
    sort(scratch);
    switch (args_.output) {
      case BoxOutput::first: return visit_first(scratch);
      case BoxOutput::mask: return visit_mask();
      default: return visit_lists();
    }
  }

 private:
  // Columns of up to kTile points; one with a non-finite coordinate gets a NaN, which is inside nothing.
  int load_tile(int64_t i, T* x, T* y, T* z) const {
    const int count = static_cast<int>(size_ - i < kTile ? size_ - i : kTile);
    const T* p = points_ + 3 * i;
    const int done = columns_of_vectors(p, count, x, y, z);
    deinterleave(p + 3 * done, count - done, x + done, y + done, z + done);
    if (!args_.validate && !all_finite(p, 3 * count)) {  // validated points are finite
      for (int k = 0; k < count; ++k)
        if (!finite3(p + 3 * k)) z[k] = std::numeric_limits<T>::quiet_NaN();
    }
    return count;
  }

  // ---- outputs

  int32_t box_number(const Box<T>& box) const {
    return box.row + (args_.global_index ? static_cast<int32_t>(element_.rows.box_begin) : 0);
  }
  uint8_t* mask_row(const Box<T>& box) const {
    const int64_t column = begin_ + (args_.global_index ? element_.rows.point_begin : 0);
    return args_.mask + (element_.rows.box_begin + box.row) * args_.mask_columns + column;
  }
  int64_t& place(const Box<T>& box) const { return args_.place[element_.first_place + box.row * pieces_ + piece_]; }

  // Ascending point numbers inside the piece.
  void put(const Box<T>& box, const int32_t* hits, int64_t n) const {
    if (args_.output == BoxOutput::count) {
      place(box) += n;
      return;
    }
    const int32_t base = static_cast<int32_t>(begin_ + (args_.global_index ? element_.rows.point_begin : 0));
    int64_t& to = place(box);
    const int64_t end = args_.limit == nullptr ? to + n : args_.limit[element_.rows.box_begin + box.row];
    for (int64_t i = 0; i < n && to < end; ++i) args_.point[to++] = hits[i] + base;
  }

  // ---- few boxes: every point against every box

  void brute_force() {
    T x[kTile], y[kTile], z[kTile];
    T* column[3] = {x, y, z};
    for (int64_t i = 0; i < size_; i += kTile) {
      const int count = load_tile(i, x, y, z);
      if (args_.output == BoxOutput::first)
        tile_first(column, i, count);
      else
        tile_hits(column, i, count);
    }
  }

  void tile_first(T* const* column, int64_t i, int count) {
    int32_t* first = args_.first + element_.rows.point_begin + begin_ + i;
    for (int k = 0; k < count; k += kLanes) {
      vint number = vset(-1);
      for (int64_t j = element_.num_boxes - 1; j >= 0; --j)
        number = vselect(inside(element_.boxes[j], column, k), vset(box_number(element_.boxes[j])), number);
      const int left = count - k;
      if (left >= kLanes)
        vstore(first + k, number);
      else
        std::memcpy(first + k, &number, static_cast<size_t>(left) * sizeof(int32_t));
    }
  }

  void tile_hits(T* const* column, int64_t i, int count) {
    int32_t hits[kTile + kLanes];
    for (int64_t j = 0; j < element_.num_boxes; ++j) {
      const Box<T>& box = element_.boxes[j];
      int64_t n = 0;
      for (int k = 0; k < count; k += kLanes)
        n += vcompress(hits + n, viota() + static_cast<int32_t>(i + k), inside(box, column, k) & first_lanes(count - k));
      if (args_.output == BoxOutput::mask) {
        uint8_t* row = mask_row(box);
        for (int64_t h = 0; h < n; ++h) row[hits[h]] = 1;
      } else {
        put(box, hits, n);
      }
    }
  }

  // ---- many boxes: points sorted by cell, those of cells that no box reaches left out

  template <bool kHashed>
  void tile_buckets(const T* x, const T* y, const T* z, int count, int32_t* bucket) const {
    const Cells<T>& cells = element_.cells;
    const int32_t outside = static_cast<int32_t>(cells.buckets);
    const uint32_t nx = static_cast<uint32_t>(cells.count[0]), ny = static_cast<uint32_t>(cells.count[1]);
    for (int k = 0; k < count; ++k) {
      const int32_t cx = cell_of(x[k], cells.inv[0]);
      const int32_t cy = cell_of(y[k], cells.inv[1]);
      const bool in = (static_cast<uint32_t>(cx) - static_cast<uint32_t>(cells.low[0]) < nx) &
                      (static_cast<uint32_t>(cy) - static_cast<uint32_t>(cells.low[1]) < ny) &
                      (z[k] >= element_.z_low) & (z[k] <= element_.z_high);
      const uint32_t row = kHashed ? Cells<T>::mix(cy, 0) : cells.dense_row(cy, 0);
      const int32_t b = static_cast<int32_t>((row + static_cast<uint32_t>(cx)) & cells.mask);
      bucket[k] = in ? b : outside;
    }
  }

  void sort(Scratch& outer) {
    const Cells<T>& cells = element_.cells;
    start_ = outer.zeros<int32_t>(cells.buckets + 2);
    for (T*& column : column_) column = outer.take<T>(size_);
    index_ = outer.take<int32_t>(size_);
    Scratch scratch;
    uint16_t* bucket = scratch.take<uint16_t>(size_ + 1);  // the table has at most 2^14 buckets
    uint16_t* source = scratch.take<uint16_t>(size_ + 1);  // and a piece 2^15 points
    kept_ = 0;
    T x[kTile], y[kTile], z[kTile];
    int32_t tile[kTile];
    for (int64_t i = 0; i < size_; i += kTile) {
      const int count = load_tile(i, x, y, z);
      if (cells.hashed())
        tile_buckets<true>(x, y, z, count, tile);
      else
        tile_buckets<false>(x, y, z, count, tile);
      for (int k = 0; k < count; ++k) {
        bucket[kept_] = static_cast<uint16_t>(tile[k]);
        source[kept_] = static_cast<uint16_t>(i + k);
        kept_ += element_.covered[tile[k]];
      }
    }
    for (int64_t i = 0; i < kept_; ++i) ++start_[bucket[i] + 2];
    sum_up(start_, cells.buckets);
    for (int64_t i = 0; i < kept_; ++i) {
      const int32_t to = start_[bucket[i] + 1]++;
      const T* p = points_ + 3 * int64_t{source[i]};
      for (int a = 0; a < 3; ++a) column_[a][to] = p[a];
      index_[to] = source[i];
    }
  }

  // Calls f(begin, end) for runs of sorted points that together hold all points of the box.
  template <class F>
  void runs_of(const Box<T>& box, F&& f) const {
    if (box.whole) {
      f(int64_t{0}, kept_);
      return;
    }
    for (int32_t cy = box.low[1]; cy <= box.high[1]; ++cy)
      element_.cells.runs(start_, element_.cells.row(cy, 0), box.low[0], box.high[0],
                          [&](int64_t begin, int64_t end) { f(begin, end); });
  }

  // Calls f(i, lanes): the hits among the sorted points i, i + 1 ...
  template <class F>
  void hits_of(const Box<T>& box, F&& f) const {
    runs_of(box, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += kLanes) f(i, inside(box, column_, i) & first_lanes(end - i));
    });
  }

  // Boxes in descending order: the lowest number stays.
  void visit_first(Scratch& scratch) {
    int32_t* number = scratch.take<int32_t>(kept_);
    std::memset(number, 0xff, static_cast<size_t>(kept_) * sizeof(int32_t));
    for (int64_t j = element_.num_boxes - 1; j >= 0; --j) {
      const vint own = vset(box_number(element_.boxes[j]));
      hits_of(element_.boxes[j], [&](int64_t i, lane_mask m) { vstore(number + i, vselect(m, own, vload(number + i))); });
    }
    int32_t* first = args_.first + element_.rows.point_begin + begin_;
    for (int64_t i = 0; i < kept_; ++i) first[index_[i]] = number[i];
  }

  void visit_mask() {
    for (int64_t j = 0; j < element_.num_boxes; ++j) {
      uint8_t* row = mask_row(element_.boxes[j]);
      hits_of(element_.boxes[j], [&](int64_t i, lane_mask m) {
        for (; m != 0; m &= m - 1) row[index_[i + __builtin_ctz(m)]] = 1;
      });
    }
  }

  // A set of bits puts the hits of a box in order, and forgets that a point was met twice where rows of a
  // hashed table overlap.
  void visit_lists() {
    uint64_t set[kBoxPiece / 64] = {};
    int32_t hits[64];
    const int64_t words = (size_ + 63) / 64;
    for (int64_t j = 0; j < element_.num_boxes; ++j) {
      const Box<T>& box = element_.boxes[j];
      if (args_.output == BoxOutput::count && !element_.cells.hashed()) {
        hits_of(box, [&](int64_t, lane_mask m) { place(box) += __builtin_popcount(m); });
        continue;
      }
      hits_of(box, [&](int64_t i, lane_mask m) {
        for (; m != 0; m &= m - 1) {
          const int32_t k = index_[i + __builtin_ctz(m)];
          set[k / 64] |= uint64_t{1} << (k % 64);
        }
      });
      for (int64_t w = 0; w < words; ++w) {
        uint64_t bits = set[w];
        if (bits == 0) continue;
        set[w] = 0;
        int64_t n = 0;
        for (; bits != 0; bits &= bits - 1) hits[n++] = static_cast<int32_t>(w * 64 + __builtin_ctzll(bits));
        put(box, hits, n);
      }
    }
  }

  const PointsInBoxesArgs<T>& args_;
  const Element<T>& element_;
  const int64_t piece_;
  const int64_t begin_;
  int64_t size_;
  int64_t pieces_;
  const T* points_;
  int64_t kept_ = 0;
  int32_t* start_ = nullptr;
  T* column_[3] = {};
  int32_t* index_ = nullptr;
};

// ---- all elements ---------------------------------------------------------------------------------------

template <class T>
void points_in_boxes(PointsInBoxesArgs<T>& args) {
  Scratch scratch;
  auto* elements = scratch.take<Element<T>>(args.num_elements);
  int64_t pieces = 0, places = 0;
  for (int64_t e = 0; e < args.num_elements; ++e) {
    Element<T>& element = elements[e];
    element.rows = args.elements[e];
    element.first_piece = pieces;
    element.first_place = places;
    element.boxes = scratch.take<Box<T>>(element.rows.box_count);
    const bool small = element.rows.box_count < kBruteBoxes || element.rows.point_count < kBrutePoints;
    element.covered = small ? nullptr : scratch.take<uint8_t>(table_room(element.rows.point_count) + 1);
    pieces += box_pieces(element.rows);
    places += box_pieces(element.rows) * element.rows.box_count;
  }
  Parallel parallel = args.parallel;
  if (args.num_elements < 2) parallel.threads = 1;
  parallel_tasks(parallel, args.num_elements, [&](int64_t e) { prepare(args, elements[e]); });
  args.bad_what = 0;
  for (int64_t e = 0; e < args.num_elements; ++e) {
    if (elements[e].bad_what == 0) continue;
    args.bad_what = elements[e].bad_what;
    args.bad_element = e;
    args.bad_row = elements[e].bad_row;
    return;
  }
  parallel_tasks(args.parallel, pieces, [&](int64_t task) {
    const int64_t e = last_not_above(args.num_elements, task, [&](int64_t i) { return elements[i].first_piece; });
    Piece<T>(args, elements[e], task - elements[e].first_piece).run();
  });
}

}  // namespace

void points_in_boxes_f32(PointsInBoxesArgs<float>& args) { points_in_boxes(args); }
void points_in_boxes_f64(PointsInBoxesArgs<double>& args) { points_in_boxes(args); }

TENFOLD_END
