#include "knn/knn.h"

#include <cmath>
#include <limits>

#include "common/arena.h"
#include "common/index_sort.h"
#include "common/kd_tree.h"
#include "common/radix.h"

TENFOLD_BEGIN

namespace {

constexpr int kLeaf = 32;
constexpr int kMostLevels = 8;          // of boxes above the leaves: 16^8 of them
constexpr int64_t kChunk = 256;         // queries per task
constexpr int64_t kSerialQueries = 512;
constexpr int64_t kUnsortedPoints = 16384;  // such a tree fits the L2 cache: any order of queries will do

// ---- the nearest so far --------------------------------------------------------------------------------

// k squared distances, ascending, with their points; equal ones in the order of their index. Infinity where a
// neighbour is still missing. R: vectors that hold them, R * kLanes >= k.
template <class T, int R>
class Nearest {
 public:
  void clear(int k) {
    last_ = (k - 1) / kLanes;
    lane_ = vset((k - 1) % kLanes);
    for (int r = 0; r < R; ++r) {
      dist2_[r] = vset(std::numeric_limits<float>::infinity());
      index_[r] = vset(-1);
    }
  }
  // A later neighbour must not be farther; one whose distance overflows is none.
  vfloat bound() const {
    const vfloat kth = (vfloat)network::permute((vint)dist2_[last_], lane_);
    return vmin(kth, vset(std::numeric_limits<float>::max()));
  }
  void add(float d2, int32_t number) {
    const vfloat x = vset(d2);
    vint equal = vint{};
    for (int r = 0; r < R; ++r) equal |= dist2_[r] == x;
    if (veq(equal, vset(-1)) != 0)
      insert<true>(x, vset(number));
    else
      insert<false>(x, vset(number));
  }
  void store(int k, float* dist2, int32_t* index) const {
    float d[R * kLanes];
    int32_t n[R * kLanes];
    for (int r = 0; r < R; ++r) {
      vstore(d + r * kLanes, dist2_[r]);
      vstore(n + r * kLanes, index_[r]);
    }
    std::memcpy(dist2, d, static_cast<size_t>(k) * sizeof(float));
    std::memcpy(index, n, static_cast<size_t>(k) * sizeof(int32_t));
  }

 private:
  // In every lane an entry stays, or takes the new one, or the entry before it.
  template <bool kTies>
  void insert(vfloat x, vint n) {
    const vint turn = (viota() + (kLanes - 1)) & (kLanes - 1);
    const vint first = viota() == 0;
    vfloat carried = vset(-std::numeric_limits<float>::infinity());
    vint carried_n = vset(-1);
    for (int r = 0; r < R; ++r) {
      const vfloat here = dist2_[r], turned = (vfloat)network::permute((vint)here, turn);
      const vint here_n = index_[r], turned_n = network::permute(here_n, turn);
      const vfloat before = first ? carried : turned;
      const vint before_n = first ? carried_n : turned_n;
      vint stays = here < x, before_stays = before < x;
      if constexpr (kTies) {
        stays |= (here == x) & (here_n < n);
        before_stays |= (before == x) & (before_n < n);
      }
      dist2_[r] = vmin(here, vmax(before, x));  // the right one of three, because they ascend
      index_[r] = stays ? here_n : before_stays ? n : before_n;
      carried = turned;
      carried_n = turned_n;
    }
  }

  vfloat dist2_[R];
  vint index_[R];
  vint lane_;
  int last_;
};

// The same in memory.
template <int R>
class Nearest<double, R> {
 public:
  void clear(int k) {
    k_ = k;
    for (int j = 0; j < k; ++j) {
      dist2_[j] = std::numeric_limits<double>::infinity();
      index_[j] = -1;
    }
  }
  vdouble bound() const { return vmin(vset(dist2_[k_ - 1]), vset(std::numeric_limits<double>::max())); }
  void add(double d2, int32_t number) {
    const auto behind = [&](int j) { return dist2_[j] > d2 || (dist2_[j] == d2 && index_[j] > number); };
    if (!behind(k_ - 1)) return;
    int j = k_ - 1;
    for (; j > 0 && behind(j - 1); --j) {
      dist2_[j] = dist2_[j - 1];
      index_[j] = index_[j - 1];
    }
    dist2_[j] = d2;
    index_[j] = number;
  }
  void store(int k, double* dist2, int32_t* index) const {
    std::memcpy(dist2, dist2_, static_cast<size_t>(k) * sizeof(double));
    std::memcpy(index, index_, static_cast<size_t>(k) * sizeof(int32_t));
  }

 private:
  double dist2_[R * kLanes];
  int32_t index_[R * kLanes];
  int k_ = 0;
};

// ---- one element ---------------------------------------------------------------------------------------

template <class T>
struct Element {
  KnnElement rows;
  KdLeaves<T> points;
  Boxes<T> level[kMostLevels];  // level[0]: unions of kFan leaves, and so on, until there are kFan or fewer
  int64_t count[kMostLevels];
  int levels;
  int32_t* order;  // queries in the order of the tree, or null
  int64_t first_chunk;
  int bad_what;
  int64_t bad_row;
};

// The boxes of a level are closed up to a multiple of kFan, so that kFan can be read at once.
int64_t padded(int64_t count) { return (count + kFan - 1) / kFan * kFan; }

template <class T>
void allocate(Scratch& scratch, int64_t n, Element<T>& e) {
  e.points.allocate(scratch, n, kLeaf);
  int64_t boxes = e.points.most_leaves();
  for (int l = 0; l < kMostLevels; ++l) {
    boxes = padded(boxes) / kFan;
    e.level[l].allocate(scratch, padded(boxes));
    if (boxes <= kFan) break;
  }
}

template <class T>
void build(const T* xyz, int64_t n, Element<T>& e) {
  e.points.build(xyz, n, 3, 3);
  const Boxes<T>* below = &e.points.boxes;
  int64_t boxes = e.points.leaves();
  e.levels = 0;
  do {
    const int64_t count = padded(boxes) / kFan;
    Boxes<T>& level = e.level[e.levels];
    for (int64_t i = 0; i < padded(count); ++i) {
      const int64_t end = (i + 1) * kFan < boxes ? (i + 1) * kFan : boxes;
      level.unite(i, *below, i * kFan, i < count ? end : i * kFan);
    }
    e.count[e.levels++] = count;
    below = &level;
    boxes = count;
  } while (boxes > kFan);
}

template <class T, int R>
class Search {
 public:
  Search(const Element<T>& e, int k) : e_(e), k_(k) {}

  const Nearest<T, R>& find(const T* q) {
    for (int a = 0; a < 3; ++a) q_[a] = q[a];
    nearest_.clear(k_);
    if (finite3(q) && e_.points.size() > 0) visit(e_.levels, 0);
    return nearest_;
  }

 private:
  // The kFan boxes from `first` below level `above`, those of a level or leaves: from the nearest on, as far as a
  // neighbour can be.
  void visit(int above, int64_t first) {
    const Boxes<T>& boxes = above == 0 ? e_.points.boxes : e_.level[above - 1];
    T gap[kFan];
    for (int i = 0; i < kFan; i += kWidth<T>) vstore(gap + i, boxes.gaps(first + i, q_));
    for (;;) {
      vec<T> least = vload(gap);
      for (int i = kWidth<T>; i < kFan; i += kWidth<T>) least = vmin(least, vload(gap + i));
      const T nearest = -vtop(-least);
      if (!(nearest <= nearest_.bound()[0])) return;
      lane_mask m = 0;
      for (int i = 0; i < kFan; i += kWidth<T>) m |= vge(vset(nearest), vload(gap + i)) << i;
      const int i = __builtin_ctz(m);
      gap[i] = std::numeric_limits<T>::infinity();
      enter(above, first + i);
    }
  }
  void enter(int above, int64_t box) {
    if (above == 0)
      scan(e_.points.begin[box], e_.points.begin[box + 1]);
    else
      visit(above - 1, box * kFan);
  }

  void scan(int64_t begin, int64_t end) {
    Nearest<T, R> nearest = nearest_;  // in registers
    vec<T> bound = nearest.bound();
    for (int64_t i = begin; i < end; i += kWidth<T>) {
      const vec<T> dx = vload(e_.points.column[0] + i) - q_[0];
      const vec<T> dy = vload(e_.points.column[1] + i) - q_[1];
      const vec<T> dz = vload(e_.points.column[2] + i) - q_[2];
      const vec<T> d2 = (dx * dx + dy * dy) + dz * dz;
      const lane_mask valid = end - i < kWidth<T> ? (lane_mask{1} << (end - i)) - 1 : ~lane_mask{0};
      lane_mask m = vge(bound, d2) & valid;
      if (m == 0) continue;
      T d[kWidth<T>];
      vstore(d, d2);
      while (m != 0) {
        const int lane = __builtin_ctz(m);
        nearest.add(d[lane], e_.points.index[i + lane]);
        bound = nearest.bound();
        m &= m - 1;
        m &= vge(bound, d2);
      }
    }
    nearest_ = nearest;
  }

  const Element<T>& e_;
  const int k_;
  T q_[3];
  Nearest<T, R> nearest_;
};

// ---- all queries ---------------------------------------------------------------------------------------

// Queries along the cells of a coarse grid, so that neighbours find each other's points in the cache.
template <class T>
void sort_queries(const KnnArgs<T>& args, Element<T>& e) {
  constexpr int kBits = 10;
  T low[2], inv[2];
  const Boxes<T>& top = e.level[e.levels - 1];
  for (int a = 0; a < 2; ++a) {
    low[a] = top.low[a][0];
    T high = top.high[a][0];
    for (int64_t i = 1; i < e.count[e.levels - 1]; ++i) {
      low[a] = top.low[a][i] < low[a] ? top.low[a][i] : low[a];
      high = top.high[a][i] > high ? top.high[a][i] : high;
    }
    inv[a] = inverse_size((high / 2 - low[a] / 2) / T(1 << (kBits - 1)));
  }
  const int64_t m = e.rows.query_count;
  Scratch scratch;
  uint32_t* key = scratch.take<uint32_t>(m);
  for (int64_t i = 0; i < m; ++i) {
    const T* q = args.query + 3 * (e.rows.query_begin + i);
    uint32_t place[2] = {0, 0};
    for (int a = 0; a < 2 && finite3(q); ++a) {
      const int32_t c = cell_of(q[a] - low[a], inv[a]);
      place[a] = static_cast<uint32_t>(c < 0 ? 0 : c < (1 << kBits) ? c : (1 << kBits) - 1);
    }
    key[i] = (place[1] >> 4) << kBits | place[0];  // stripes of 16 rows
    e.order[i] = static_cast<int32_t>(i);
  }
  radix_sort(key, e.order, m, 2 * kBits);
}

template <class T>
void prepare(const KnnArgs<T>& args, Element<T>& e) {
  const T* ref = args.ref + 3 * e.rows.ref_begin;
  e.bad_what = 0;
  if (args.validate) {
    e.bad_row = first_bad_row(ref, e.rows.ref_count);
    e.bad_what = e.bad_row >= 0 ? 1 : 0;
    if (e.bad_what == 0) {
      e.bad_row = first_bad_row(args.query + 3 * e.rows.query_begin, e.rows.query_count);
      e.bad_what = e.bad_row >= 0 ? 2 : 0;
    }
    if (e.bad_what != 0) return;
  }
  build(ref, e.rows.ref_count, e);
  if (e.order != nullptr) sort_queries(args, e);
}

template <class T, int R>
void search_chunk(const KnnArgs<T>& args, const Element<T>& e, int64_t chunk) {
  const int k = static_cast<int>(args.k);
  Search<T, R> search(e, k);
  const int32_t base = args.global_index ? static_cast<int32_t>(e.rows.ref_begin) : 0;
  const int64_t begin = chunk * kChunk;
  const int64_t end = begin + kChunk < e.rows.query_count ? begin + kChunk : e.rows.query_count;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = e.rows.query_begin + (e.order != nullptr ? e.order[i] : i);
    int32_t* index = args.idx + row * k;
    search.find(args.query + 3 * row).store(k, args.dist2 + row * k, index);
    for (int j = 0; base != 0 && j < k; ++j) index[j] += index[j] < 0 ? 0 : base;
    for (int j = 0; args.root && j < k; ++j) args.dist2[row * k + j] = std::sqrt(args.dist2[row * k + j]);
  }
}

template <class T>
using ChunkFunction = void (*)(const KnnArgs<T>&, const Element<T>&, int64_t);

// The fewest vectors, a power of two, that hold k.
template <class T, int R = 1>
ChunkFunction<T> choose(int64_t k) {
  if constexpr (R * kLanes < kMostNeighbours) {
    if (k > R * kLanes) return choose<T, 2 * R>(k);
  }
  return search_chunk<T, R>;
}

template <class T>
void clear_rows_behind(const KnnArgs<T>& args, const KnnElement& e) {
  const int64_t end = (e.query_begin + e.query_rows) * args.k;
  for (int64_t i = (e.query_begin + e.query_count) * args.k; i < end; ++i) {
    args.dist2[i] = std::numeric_limits<T>::infinity();
    args.idx[i] = -1;
  }
}

template <class T>
void knn(KnnArgs<T>& args) {
  Scratch scratch;
  auto* elements = scratch.take<Element<T>>(args.num_elements);
  int64_t chunks = 0, queries = 0;
  for (int64_t i = 0; i < args.num_elements; ++i) {
    Element<T>& e = elements[i];
    e.rows = args.elements[i];
    e.first_chunk = chunks;
    e.order = nullptr;
    chunks += (e.rows.query_count + kChunk - 1) / kChunk;
    queries += e.rows.query_count;
    allocate(scratch, e.rows.ref_count, e);
    if (e.rows.ref_count > kUnsortedPoints && e.rows.query_count >= kChunk)
      e.order = scratch.take<int32_t>(e.rows.query_count);
  }
  Parallel parallel = args.parallel;
  if (queries < kSerialQueries) parallel.threads = 1;
  parallel_tasks(parallel, args.num_elements, [&](int64_t i) { prepare(args, elements[i]); });
  args.bad_what = 0;
  for (int64_t i = 0; i < args.num_elements; ++i) {
    if (elements[i].bad_what == 0) continue;
    args.bad_what = elements[i].bad_what;
    args.bad_element = i;
    args.bad_row = elements[i].bad_row;
    return;
  }
  const auto search = choose<T>(args.k);
  parallel_tasks(parallel, chunks, [&](int64_t task) {
    const int64_t i = last_not_above(args.num_elements, task, [&](int64_t j) { return elements[j].first_chunk; });
    search(args, elements[i], task - elements[i].first_chunk);
  });
  for (int64_t i = 0; i < args.num_elements; ++i) clear_rows_behind(args, elements[i].rows);
}

}  // namespace

void knn_f32(KnnArgs<float>& args) { knn(args); }
void knn_f64(KnnArgs<double>& args) { knn(args); }

TENFOLD_END
