#include "ball_query/ball_query.h"

#include "common/arena.h"
#include "common/bytes.h"
#include "common/grid.h"
#include "common/index_sort.h"
#include "common/radix.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kBrutePoints = 128;   // no grid below this
constexpr int64_t kFewCells = 64;       // a ball reaches most of them: better one cell in index order
// Size of a cell in radii: short in x, where it cuts runs finely at no cost; tall in z, where fewer and longer
// runs fill the vectors better.
constexpr float kSize[3] = {0.5f, 1, 2};
constexpr int64_t kLongRun = 128;       // longer runs are skipped through by blocks
constexpr int64_t kGroup = kBlocksBehind;  // blocks looked at together
constexpr int64_t kChunk = 256;         // centres per task
constexpr int64_t kSerialCenters = 512;
constexpr int64_t kUnsortedPoints = 16384;  // such a grid fits the L2 cache: any order of centres will do

// kLanes squared distances, and their comparison with a bound.
struct Distances64 {
  double d[kLanes];
};
static inline vfloat distances(float* const* column, int64_t i, const float* q) {
  const vfloat dx = vload(column[0] + i) - q[0];
  const vfloat dy = vload(column[1] + i) - q[1];
  const vfloat dz = vload(column[2] + i) - q[2];
  return (dx * dx + dy * dy) + dz * dz;
}
static inline Distances64 distances(double* const* column, int64_t i, const double* q) {
  Distances64 r;
  for (int l = 0; l < kLanes; ++l) {
    const double dx = column[0][i + l] - q[0];
    const double dy = column[1][i + l] - q[1];
    const double dz = column[2][i + l] - q[2];
    r.d[l] = (dx * dx + dy * dy) + dz * dz;
  }
  return r;
}
static inline lane_mask below(vfloat d, float bound) { return vlt(d, vset(bound)); }
static inline lane_mask below(const Distances64& d, double bound) {
  lane_mask m = 0;
  for (int l = 0; l < kLanes; ++l) m |= static_cast<lane_mask>(d.d[l] < bound) << l;
  return m;
}
static inline lane_mask is_zero(vfloat d) { return vle(d, vfloat{}); }
static inline lane_mask is_zero(const Distances64& d) {
  lane_mask m = 0;
  for (int l = 0; l < kLanes; ++l) m |= static_cast<lane_mask>(d.d[l] == 0) << l;
  return m;
}

// The k smallest indices of a stream, k <= W. Hits gather in `pending`; a full batch is sorted by a network
// and merged, which lowers the bound that later hits must beat.
template <int W>
class Hits {
 public:
  static constexpr int kRegisters = W / kLanes;

  void prepare(Scratch&, int64_t k) { k_ = static_cast<int>(k); }
  void clear() {
    waiting_ = found_ = 0;
    bound_ = kNoIndex;
  }
  int32_t bound() const { return bound_; }
  // For i from begin to end in steps of kLanes: adds index[i + lane] for the lanes of hit(i).
  template <class F>
  void push_all(const int32_t* index, int64_t begin, int64_t end, F&& hit) {
    int waiting = waiting_;  // members would be reloaded after every store
    int32_t bound = bound_;
    for (int64_t i = begin; i < end; i += kLanes) {
      const vint number = vload(index + i);
      const lane_mask m = hit(i) & first_lanes(end - i) & vlt(number, vset(bound));
      waiting += vcompress(pending_ + waiting, number, m);
      if (waiting < W) continue;
      waiting_ = waiting;
      flush();
      waiting = waiting_;
      bound = bound_;
    }
    waiting_ = waiting;
  }
  // For indices that come in ascending order, instead of push_all; true once there are k.
  bool append(vint index, lane_mask m) {
    if (waiting_ < k_) waiting_ += vcompress(pending_ + waiting_, index, m);
    return waiting_ >= k_;
  }
  int64_t take_appended(const int32_t*& sorted) const {
    sorted = pending_;
    return waiting_ < k_ ? waiting_ : k_;
  }
  int64_t take(const int32_t*& sorted) {
    if (waiting_ > 0) flush();
    sorted = best_;
    return found_;
  }

 private:
  void flush() {
    vint v[kRegisters];
    for (int r = 0; r < kRegisters; ++r) {
      const vint lane = viota() + r * kLanes;
      v[r] = lane < vset(waiting_) ? vload(pending_ + r * kLanes) : vset(kNoIndex);
    }
    network::sort(v);
    if (found_ > 0) {
      vint best[kRegisters];
      for (int r = 0; r < kRegisters; ++r) best[r] = vload(best_ + r * kLanes);
      network::keep_low(best, v);
      for (int r = 0; r < kRegisters; ++r) vstore(best_ + r * kLanes, best[r]);
    } else {
      for (int r = 0; r < kRegisters; ++r) vstore(best_ + r * kLanes, v[r]);
    }
    const int batch = waiting_ < W ? waiting_ : W;
    found_ = found_ + batch < k_ ? found_ + batch : k_;
    waiting_ -= batch;
    vstore(pending_, vload(pending_ + W));
    if (found_ == k_) bound_ = best_[k_ - 1];
  }

  alignas(64) int32_t best_[W + kLanes];
  int32_t pending_[W + kLanes];
  int k_ = 0;
  int waiting_ = 0;
  int found_ = 0;
  int32_t bound_ = kNoIndex;
};

// Any k: the buffer holds 2 k hits and is cut back to the smallest k when full.
template <>
class Hits<0> {
 public:
  void prepare(Scratch& scratch, int64_t k) {
    k_ = k;
    room_ = 2 * k < 256 ? 256 : 2 * k;
    pending_ = scratch.take<int32_t>(room_ + 64 + kLanes);
    spare_ = scratch.take<int32_t>(room_ + 64 + kLanes);
  }
  void clear() {
    waiting_ = 0;
    bound_ = kNoIndex;
  }
  int32_t bound() const { return bound_; }
  template <class F>
  void push_all(const int32_t* index, int64_t begin, int64_t end, F&& hit) {
    for (int64_t i = begin; i < end; i += kLanes) {
      const vint number = vload(index + i);
      waiting_ += vcompress(pending_ + waiting_, number, hit(i) & first_lanes(end - i) & vlt(number, vset(bound_)));
      if (waiting_ >= room_) cut();
    }
  }
  bool append(vint index, lane_mask m) {
    if (waiting_ < k_) waiting_ += vcompress(pending_ + waiting_, index, m);
    return waiting_ >= k_;
  }
  int64_t take_appended(const int32_t*& sorted) const {
    sorted = pending_;
    return waiting_ < k_ ? waiting_ : k_;
  }
  int64_t take(const int32_t*& sorted) {
    cut();
    sorted = pending_;
    return waiting_;
  }

 private:
  void cut() {
    sort_indices(pending_, spare_, waiting_);
    if (waiting_ < k_) return;
    waiting_ = k_;
    bound_ = pending_[k_ - 1];
  }

  int32_t* pending_ = nullptr;
  int32_t* spare_ = nullptr;
  int64_t k_ = 0;
  int64_t room_ = 0;
  int64_t waiting_ = 0;
  int32_t bound_ = kNoIndex;
};

template <class T>
struct Scale {
  T square;      // radius^2
  T min_square;  // min_radius^2; 0 accepts all
  int64_t k;
  int32_t* idx;
  int32_t* count;
};

template <class T>
struct Element {
  BallElement rows;
  bool brute;
  int32_t* order;  // centres in cell order, or null
  int64_t first_chunk;
  PointGrid<T> grid;
  int bad_what;
  int64_t bad_row;
};

template <class T>
struct Query {
  const BallQueryArgs<T>& args;
  Scale<T>* scales;
  int64_t num_scales;
  T radius;  // the largest
  T square;  // its square
};

// ---- the tables' rows -----------------------------------------------------------------------------------

void write_row(int32_t* row, int64_t k, const int32_t* sorted, int64_t n, int32_t base) {
  if (n == 0) {
    std::memset(row, 0, static_cast<size_t>(k) * sizeof(int32_t));
    return;
  }
  const vint first = vset(sorted[0] + base);
  for (int64_t c = 0; c < k; c += kLanes) {
    const int64_t left = n - c;
    vint v = first;
    if (left > 0) {
      const vint lane = viota();
      v = lane < vset(static_cast<int32_t>(left < kLanes ? left : kLanes)) ? vload(sorted + c) + base : first;
    }
    if (c + kLanes <= k) {
      vstore(row + c, v);
    } else {
      std::memcpy(row + c, &v, static_cast<size_t>(k - c) * sizeof(int32_t));
    }
  }
}

// Sorted indices of which two neighbours are equal: a point was met in two overlapping rows of the table.
bool has_twin(const int32_t* sorted, int64_t n) {
  for (int64_t c = 0; c + 1 < n; c += kLanes)
    if (veq(vload(sorted + c), vload(sorted + c + 1)) & first_lanes(n - 1 - c)) return true;
  return false;
}

// ---- one centre -----------------------------------------------------------------------------------------

// S: number of scales, or 0 where it is known at run time only.
template <class T, int W, int S>
class Searcher {
 public:
  Searcher(Scratch& scratch, const Query<T>& query) : query_(query) {
    hits_ = S == 1 ? &one_ : scratch.take<Hits<W>>(query.num_scales);
    for (int64_t s = 0; s < scales(); ++s) {
      if (S != 1) new (&hits_[s]) Hits<W>();
      hits_[s].prepare(scratch, query.scales[s].k);
    }
  }

  void search(const Element<T>& element, int64_t center) {
    const int64_t row = element.rows.center_begin + center;
    for (int a = 0; a < 3; ++a) q_[a] = query_.args.centers[3 * row + a];
    for (int64_t s = 0; s < scales(); ++s) hits_[s].clear();
    if (!finite3(q_) || element.rows.point_count == 0) {
      for (int64_t s = 0; s < scales(); ++s) write(element, row, s, nullptr, 0);
      return;
    }
    if (element.brute || !through_grid(element, row)) in_index_order(element, row);
  }

 private:
  int64_t scales() const { return S == 1 ? 1 : query_.num_scales; }

  void write(const Element<T>& element, int64_t row, int64_t s, const int32_t* sorted, int64_t n) {
    const Scale<T>& scale = query_.scales[s];
    const int32_t base = query_.args.global_index ? static_cast<int32_t>(element.rows.point_begin) : 0;
    write_row(scale.idx + row * scale.k, scale.k, sorted, n, base);
    scale.count[row] = static_cast<int32_t>(n);
  }

  template <class D>
  static lane_mask inside(const Scale<T>& scale, const D& d2) {
    lane_mask m = below(d2, scale.square);
    if (scale.min_square > 0) m &= ~below(d2, scale.min_square) | is_zero(d2);
    return m;
  }

  void scan(const PointGrid<T>& grid, int64_t begin, int64_t end) {
    T* const column[3] = {grid.column[0], grid.column[1], grid.column[2]};
    const T q[3] = {q_[0], q_[1], q_[2]};
    for (int64_t s = 0; s < scales(); ++s) {
      const Scale<T> scale = query_.scales[s];
      hits_[s].push_all(grid.index, begin, end, [&](int64_t i) { return inside(scale, distances(column, i, q)); });
    }
  }

  // A later hit must have an index below this.
  int32_t bound() const {
    int32_t highest = 0;
    for (int64_t s = 0; s < scales(); ++s) highest = hits_[s].bound() > highest ? hits_[s].bound() : highest;
    return highest;
  }

  // Which of kGroup blocks the ball reaches and whose indices are not all too high. The squared gap between
  // centre and block uses the operations of the distance itself on smaller differences, so by monotone
  // rounding it never exceeds the distance computed for a point of the block.
  uint32_t reached_blocks(const PointGrid<T>& grid, int64_t group, int32_t bound) const {
    const T qx = q_[0], qy = q_[1], qz = q_[2], square = query_.square;
    const auto gap = [](T low, T high, T q) {
      const T under = low - q, over = q - high;
      const T outside = under > over ? under : over;
      return outside > 0 ? outside : T(0);
    };
    int32_t reached[kGroup];
    for (int b = 0; b < kGroup; ++b) {
      const T dx = gap(grid.box_low[0][group + b], grid.box_high[0][group + b], qx);
      const T dy = gap(grid.box_low[1][group + b], grid.box_high[1][group + b], qy);
      const T dz = gap(grid.box_low[2][group + b], grid.box_high[2][group + b], qz);
      reached[b] = static_cast<int32_t>((dx * dx + dy * dy) + dz * dz < square) &
                   static_cast<int32_t>(grid.box_index[group + b] < bound);
    }
    uint32_t bits = 0;
    for (int b = 0; b < kGroup; ++b) bits |= static_cast<uint32_t>(reached[b]) << b;
    return bits;
  }

  // Long runs go block by block. Inside one cell indices ascend, so the first one too high ends the run.
  void scan_long(const PointGrid<T>& grid, int64_t begin, int64_t end, bool ascending) {
    const int64_t last = (end - 1) / kGridBlock;
    for (int64_t group = begin / kGridBlock; group <= last; group += kGroup) {
      uint32_t blocks = reached_blocks(grid, group, bound());
      if (last - group + 1 < kGroup) blocks &= (1u << (last - group + 1)) - 1;
      for (; blocks != 0; blocks &= blocks - 1) {
        const int64_t block = group + __builtin_ctz(blocks);
        if (grid.box_index[block] >= bound()) continue;
        const int64_t from = block * kGridBlock;
        const int64_t to = from + kGridBlock;
        scan(grid, from > begin ? from : begin, to < end ? to : end);
      }
      if (ascending && grid.index[group * kGridBlock > begin ? group * kGridBlock : begin] >= bound()) return;
    }
  }

  // False where a point was met twice: the caller starts again in another way.
  //
  // A hit has |fl(p - q)| < r per axis: a larger difference has a square >= fl(r * r), and adding the other
  // squares does not lower it. r is a number of type T, so p - q itself lies strictly between -r and r, and
  // by monotone rounding fl(q - r) <= p <= fl(q + r): the cells of these two enclose every hit.
  bool through_grid(const Element<T>& element, int64_t row) {
    const PointGrid<T>& grid = element.grid;
    const Cells<T>& cells = grid.cells;
    if (cells.buckets == 1) {
      scan_long(grid, 0, grid.size, true);
      return finish(element, row);
    }
    int32_t lo[3], hi[3];
    for (int a = 0; a < 3; ++a) {
      lo[a] = cell_of(q_[a] - query_.radius, cells.inv[a]);
      hi[a] = cell_of(q_[a] + query_.radius, cells.inv[a]);
      const int32_t top = cells.low[a] + (cells.count[a] - 1);
      lo[a] = lo[a] > cells.low[a] ? lo[a] : cells.low[a];
      hi[a] = hi[a] < top ? hi[a] : top;
    }
    const bool ascending = lo[0] == hi[0] && !cells.hashed();
    if (lo[0] <= hi[0]) {
      for (int32_t cz = lo[2]; cz <= hi[2]; ++cz) {
        for (int32_t cy = lo[1]; cy <= hi[1]; ++cy) {
          cells.runs(grid.start, cells.row(cy, cz), lo[0], hi[0], [&](int64_t begin, int64_t end) {
            if (end - begin > kLongRun)
              scan_long(grid, begin, end, ascending);
            else
              scan(grid, begin, end);
          });
        }
      }
    }
    return finish(element, row);
  }

  bool finish(const Element<T>& element, int64_t row) {
    const bool twins_possible = element.grid.cells.hashed();
    for (int64_t s = 0; s < scales(); ++s) {
      const int32_t* sorted = nullptr;
      const int64_t n = hits_[s].take(sorted);
      // Without twins among them, the k smallest of all sightings are the k smallest hits.
      if (twins_possible && has_twin(sorted, n)) return false;
      write(element, row, s, sorted, n);
    }
    return true;
  }

  void in_index_order(const Element<T>& element, int64_t row) {
    const int64_t n = element.rows.point_count;
    const T* xyz = query_.args.xyz + 3 * element.rows.point_begin;
    T tile[3][kTile];
    T* column[3] = {tile[0], tile[1], tile[2]};
    for (int64_t s = 0; s < scales(); ++s) hits_[s].clear();
    bool full = false;
    for (int64_t i = 0; i < n && !full; i += kTile) {
      const int count = static_cast<int>(n - i < kTile ? n - i : kTile);
      deinterleave(xyz + 3 * i, count, column[0], column[1], column[2]);
      for (int j = 0; j < count && !full; j += kLanes) {
        const auto d2 = distances(column, j, q_);
        const vint index = viota() + static_cast<int32_t>(i + j);
        const lane_mask valid = first_lanes(count - j);
        full = true;
        for (int64_t s = 0; s < scales(); ++s) full &= hits_[s].append(index, inside(query_.scales[s], d2) & valid);
      }
    }
    for (int64_t s = 0; s < scales(); ++s) {
      const int32_t* sorted = nullptr;
      const int64_t found = hits_[s].take_appended(sorted);
      write(element, row, s, sorted, found);
    }
  }

  const Query<T>& query_;
  Hits<W> one_;
  Hits<W>* hits_;
  T q_[3];
};

// ---- all centres ----------------------------------------------------------------------------------------

// Centres by cell, rows of cells in turn, so that neighbours find each other's points in the cache.
template <class T>
void sort_centers(const BallQueryArgs<T>& args, Element<T>& element) {
  const Cells<T>& cells = element.grid.cells;
  constexpr int kBits = 11;
  int shift[2];
  for (int a = 0; a < 2; ++a) {
    shift[a] = 0;
    while (cells.count[a] >> shift[a] >> kBits) ++shift[a];
  }
  const int64_t m = element.rows.center_count;
  Scratch scratch;
  uint32_t* key = scratch.take<uint32_t>(m);
  for (int64_t i = 0; i < m; ++i) {
    const T* q = args.centers + 3 * (element.rows.center_begin + i);
    uint32_t place[2] = {0, 0};
    for (int a = 0; a < 2 && finite3(q); ++a) {
      int64_t c = int64_t{cell_of(q[a], cells.inv[a])} - cells.low[a];
      c = c < 0 ? 0 : c < cells.count[a] ? c : cells.count[a] - 1;
      place[a] = static_cast<uint32_t>(c >> shift[a]);
    }
    key[i] = place[1] << kBits | place[0];
    element.order[i] = static_cast<int32_t>(i);
  }
  radix_sort(key, element.order, m, 2 * kBits);
}

template <class T>
void prepare(const BallQueryArgs<T>& args, T radius, Element<T>& element) {
  const BallElement& rows = element.rows;
  const T* xyz = args.xyz + 3 * rows.point_begin;
  element.bad_what = 0;
  if (args.validate) {
    element.bad_row = first_bad_row(xyz, rows.point_count);
    element.bad_what = element.bad_row >= 0 ? 1 : 0;
    if (element.bad_what == 0) {
      element.bad_row = first_bad_row(args.centers + 3 * rows.center_begin, rows.center_count);
      element.bad_what = element.bad_row >= 0 ? 2 : 0;
    }
    if (element.bad_what != 0) return;
  }
  if (element.brute) return;
  T lo[3], hi[3];
  T inv[3];
  for (int a = 0; a < 3; ++a) inv[a] = inverse_size(radius * T(kSize[a]));
  element.brute = !PointGrid<T>::bounds(xyz, rows.point_count, lo, hi);
  if (element.brute) return;
  element.grid.cells.cover(lo, hi, inv, table_size(rows.point_count));
  if (!element.grid.cells.hashed() && element.grid.cells.buckets <= kFewCells) element.grid.cells.unite();
  element.grid.fill(xyz, rows.point_count);
  if (element.order != nullptr) sort_centers(args, element);
}

template <class T, int W, int S>
void search_chunk(const Query<T>& query, const Element<T>& element, int64_t chunk) {
  Scratch scratch;
  Searcher<T, W, S> searcher(scratch, query);
  const int64_t begin = chunk * kChunk;
  const int64_t end = begin + kChunk < element.rows.center_count ? begin + kChunk : element.rows.center_count;
  const bool ordered = !element.brute && element.order != nullptr;
  for (int64_t i = begin; i < end; ++i) searcher.search(element, ordered ? element.order[i] : i);
}

template <class T>
void clear_rows_behind(const Query<T>& query, const BallElement& rows) {
  const int64_t begin = rows.center_begin + rows.center_count;
  const int64_t n = rows.center_rows - rows.center_count;
  for (int64_t s = 0; s < query.num_scales; ++s) {
    const Scale<T>& scale = query.scales[s];
    fill_bytes(scale.idx + begin * scale.k, 0, static_cast<size_t>(n * scale.k) * sizeof(int32_t));
    fill_bytes(scale.count + begin, 0, static_cast<size_t>(n) * sizeof(int32_t));
  }
}

template <class T>
using ChunkFunction = void (*)(const Query<T>&, const Element<T>&, int64_t);

ChunkFunction<float> choose(float, int64_t max_k, int64_t num_scales) {
  if (num_scales == 1) {
    if (max_k <= 16) return search_chunk<float, 16, 1>;
    if (max_k <= 32) return search_chunk<float, 32, 1>;
    return max_k <= 64 ? search_chunk<float, 64, 1> : search_chunk<float, 0, 1>;
  }
  if (max_k <= 32) return search_chunk<float, 32, 0>;
  return max_k <= 64 ? search_chunk<float, 64, 0> : search_chunk<float, 0, 0>;
}
ChunkFunction<double> choose(double, int64_t max_k, int64_t) {
  return max_k <= 64 ? search_chunk<double, 64, 0> : search_chunk<double, 0, 0>;
}

// Sets up what runs before the parallel part: the calling thread owns the grids' memory.
template <class T>
int64_t allocate(const BallQueryArgs<T>& args, Scratch& scratch, Element<T>* elements) {
  int64_t chunks = 0;
  for (int64_t e = 0; e < args.num_elements; ++e) {
    Element<T>& element = elements[e];
    element.rows = args.elements[e];
    const int64_t n = element.rows.point_count;
    const int64_t m = element.rows.center_count;
    element.brute = n <= kBrutePoints || m == 0;
    element.order = nullptr;
    element.first_chunk = chunks;
    chunks += (m + kChunk - 1) / kChunk;
    if (element.brute) continue;
    element.grid.allocate(scratch, n);
    if (n > kUnsortedPoints && m >= kChunk) element.order = scratch.take<int32_t>(m);
  }
  return chunks;
}

template <class T>
void ball_query(BallQueryArgs<T>& args) {
  Scratch scratch;
  Query<T> query{args, scratch.take<Scale<T>>(args.num_scales), args.num_scales, 0, 0};
  int64_t max_k = 0;
  for (int64_t s = 0; s < args.num_scales; ++s) {
    const BallScale& from = args.scales[s];
    const T r = static_cast<T>(from.radius);
    const T r_min = static_cast<T>(from.min_radius);
    query.scales[s] = {r * r, r_min * r_min, from.k, from.idx, from.count};
    query.radius = r > query.radius ? r : query.radius;
    max_k = from.k > max_k ? from.k : max_k;
  }
  query.square = query.radius * query.radius;
  auto* elements = scratch.take<Element<T>>(args.num_elements);
  const int64_t chunks = allocate(args, scratch, elements);
  int64_t centers = 0;
  for (int64_t e = 0; e < args.num_elements; ++e) centers += elements[e].rows.center_count;
  Parallel parallel = args.parallel;
  if (centers < kSerialCenters) parallel.threads = 1;

  parallel_tasks(parallel, args.num_elements, [&](int64_t e) { prepare(args, query.radius, elements[e]); });
  args.bad_what = 0;
  for (int64_t e = 0; e < args.num_elements; ++e) {
    if (elements[e].bad_what == 0) continue;
    args.bad_what = elements[e].bad_what;
    args.bad_element = e;
    args.bad_row = elements[e].bad_row;
    return;
  }
  const auto search = choose(T(0), max_k, args.num_scales);
  parallel_tasks(parallel, chunks, [&](int64_t task) {
    const int64_t e = last_not_above(args.num_elements, task, [&](int64_t i) { return elements[i].first_chunk; });
    search(query, elements[e], task - elements[e].first_chunk);
  });
  for (int64_t e = 0; e < args.num_elements; ++e) clear_rows_behind(query, elements[e].rows);
}

}  // namespace

void ball_query_f32(BallQueryArgs<float>& args) { ball_query(args); }
void ball_query_f64(BallQueryArgs<double>& args) { ball_query(args); }

TENFOLD_END
