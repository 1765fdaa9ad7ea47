#include "knn/knn.h"

#include <cmath>
#include <limits>

#include "common/arena.h"
#include "common/kd_tree.h"
#include "common/vec.h"
#include "knn/nearest.h"

// Neighbouring queries look at much the same points: they are searched for together, one a lane, and every box and
// point is read once for all of them.

TENFOLD_BEGIN

namespace {

constexpr int kLeaf = 16;
constexpr int kQueryLeaf = 8;
constexpr int kMostLevels = 8;      // of boxes above the leaves: 16^8 of them
constexpr int64_t kChunk = 256;     // queries per task, where they need no sorting
constexpr int64_t kLeastSorted = 512;
constexpr int64_t kMostSorted = 4096;
constexpr int64_t kSparse = 64;     // points per query beyond which neighbouring queries have little in common
constexpr int64_t kSerialQueries = 512;

// ---- one element ---------------------------------------------------------------------------------------

// How an element's queries are put into groups of neighbours.
enum class Grouping {
  points,  // they are the points: the order of the leaves
  sorted,  // every task sorts its own
  none     // each on its own
};

template <class T>
struct Element {
  KnnElement rows;
  KdLeaves<T> points;
  Boxes<T> level[kMostLevels];  // level[0]: unions of kFan leaves, and so on, until there are kFan or fewer
  int32_t* lowest[kMostLevels];  // index of a point in each
  int64_t count[kMostLevels];
  int levels;
  Grouping grouping;
  int64_t chunk;  // queries per task
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
    e.lowest[l] = scratch.take<int32_t>(padded(boxes));
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
      const int64_t first = i * kFan;
      const int64_t end = i >= count ? first : first + kFan < boxes ? first + kFan : boxes;
      level.unite(i, *below, first, end);
      int32_t lowest = INT32_MAX;
      for (int64_t j = first; j < end; ++j) {
        // Indices ascend inside a leaf; a closed one has none.
        const bool closed = e.levels == 0 && e.points.begin[j] == e.points.begin[j + 1];
        const int32_t index = closed ? INT32_MAX : e.levels == 0 ? e.points.index[e.points.begin[j]] : e.lowest[e.levels - 1][j];
        lowest = index < lowest ? index : lowest;
      }
      e.lowest[e.levels][i] = lowest;
    }
    e.count[e.levels++] = count;
    below = &level;
    boxes = count;
  } while (boxes > kFan);
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
}

// ---- a group of queries --------------------------------------------------------------------------------

template <class T, int kKept>
class Search {
 public:
  static constexpr int kGroup = kWidth<T>;

  Search(const Element<T>& e, int k) : e_(e), k_(k) {}

  // The nearest of 1 to kGroup finite queries.
  const Nearest<T, kKept>& find(const T* const* queries, int count) {
    constexpr T kMost = std::numeric_limits<T>::max();
    T q[3][kGroup];
    for (int a = 0; a < 3; ++a) {
      low_[a] = high_[a] = queries[0][a];
      for (int i = 0; i < kGroup; ++i) {
        q[a][i] = queries[i < count ? i : 0][a];
        low_[a] = q[a][i] < low_[a] ? q[a][i] : low_[a];
        high_[a] = q[a][i] > high_[a] ? q[a][i] : high_[a];
      }
      q_[a] = vload(q[a]);
      middle_[a] = low_[a] / 2 + high_[a] / 2;
    }
    // Lanes without a query take no neighbour, and none takes one whose distance overflows.
    for (int i = 0; i < kGroup; ++i) cap_[i] = i < count ? kMost : T(-1);
    bound_ = cap_;
    bound_index_ = vec_index<T>{} + static_cast<Integer>(INT32_MAX);
    widest_ = kMost;
    nearest_.clear();
    visit(e_.levels, 0);
    nearest_.merge();
    return nearest_;
  }

 private:
  using Integer = decltype(viota_of<T>()[0] + 0);

  // The kFan boxes from `first` below level `above`, those of a level or leaves: from the one nearest to the middle
  // of the group on, as far as a lane can find a neighbour.
  void visit(int above, int64_t first) {
    const Boxes<T>& boxes = above == 0 ? e_.points.boxes : e_.level[above - 1];
    T gap[kFan], from_middle[kFan];
    for (int i = 0; i < kFan; i += kWidth<T>) {
      vstore(gap + i, boxes.gaps(first + i, low_, high_));
      vstore(from_middle + i, boxes.gaps(first + i, middle_));
    }
    for (lane_mask left = within(gap); left != 0;) {
      int next = __builtin_ctz(left);
      for (lane_mask m = left & (left - 1); m != 0; m &= m - 1)
        next = from_middle[__builtin_ctz(m)] < from_middle[next] ? __builtin_ctz(m) : next;
      left &= ~(lane_mask{1} << next);
      if (enter(above, first + next, boxes)) left &= within(gap);
    }
  }
  // Which of the gaps between the group and kFan boxes are small enough for one of its lanes.
  lane_mask within(const T* gap) const {
    lane_mask near = 0;
    for (int i = 0; i < kFan; i += kWidth<T>) near |= vge(vset(widest_), vload(gap + i)) << i;
    return near;
  }
  // False where no lane needs the box.
  bool enter(int above, int64_t box, const Boxes<T>& boxes) {
    const int64_t begin = above == 0 ? e_.points.begin[box] : 0;
    const int32_t lowest = above == 0 ? e_.points.index[begin] : e_.lowest[above - 1][box];
    // Points as far as the last neighbour come before it only by a lower index.
    const vec<T> gap = boxes.gaps_to(box, q_);
    const vec_index<T> lower = (vec_index<T>{} + static_cast<Integer>(lowest)) < bound_index_;
    if (!any((gap < bound_) | ((gap == bound_) & lower))) return false;
    if (above == 0)
      scan(begin, e_.points.begin[box + 1]);
    else
      visit(above - 1, box * kFan);
    return true;
  }
  static bool any(vec_index<T> m) {
    return vlt((vec<T>)(m & (vec_index<T>)vset(T(-1))), vec<T>{}) != 0;
  }

  void scan(int64_t begin, int64_t end) {
    const vec<T> x = q_[0], y = q_[1], z = q_[2];
    for (int64_t i = begin; i < end; ++i) {
      const vec<T> dx = e_.points.column[0][i] - x;
      const vec<T> dy = e_.points.column[1][i] - y;
      const vec<T> dz = e_.points.column[2][i] - z;
      const vec<T> d2 = (dx * dx + dy * dy) + dz * dz;
      if (vge(bound_, d2) != 0 && nearest_.add(d2, e_.points.index[i])) tighten();
    }
  }

  void tighten() {
    nearest_.merge();
    T dist2[kGroup];
    int32_t number[kGroup];
    nearest_.read(k_ - 1, dist2, number);
    bound_ = vmin(vload(dist2), cap_);
    for (int i = 0; i < kGroup; ++i) bound_index_[i] = number[i] < 0 ? INT32_MAX : number[i];
    widest_ = vtop(bound_);
  }

  const Element<T>& e_;
  const int k_;
  vec<T> q_[3];
  T low_[3], high_[3], middle_[3];  // the box of the group
  vec<T> bound_;                    // distance of the k-th neighbour of each lane,
  vec_index<T> bound_index_;        // and its index
  vec<T> cap_;
  T widest_;
  Nearest<T, kKept> nearest_;
};

// ---- all queries ---------------------------------------------------------------------------------------

template <class T>
void clear_row(const KnnArgs<T>& args, int64_t row) {
  for (int64_t j = row * args.k; j < (row + 1) * args.k; ++j) {
    args.dist2[j] = std::numeric_limits<T>::infinity();
    args.idx[j] = -1;
  }
}

template <class T, int kKept>
class Chunk {
 public:
  Chunk(const KnnArgs<T>& args, const Element<T>& e) : args_(args), e_(e), search_(e, static_cast<int>(args.k)) {}

  void run(int64_t chunk) {
    const int64_t begin = chunk * e_.chunk;
    const int64_t end = begin + e_.chunk < e_.rows.query_count ? begin + e_.chunk : e_.rows.query_count;
    const int64_t first = e_.rows.query_begin;
    if (e_.grouping == Grouping::points) {
      for (int64_t i = begin; i < end; ++i)
        if (!finite3(query(first + i))) clear_row(args_, first + i);
      in_order(e_.points.index, begin, end < e_.points.size() ? end : e_.points.size(), first);
    } else if (e_.grouping == Grouping::sorted) {
      sorted(first + begin, end - begin);
    } else {
      for (int64_t row = first + begin; row < first + end; ++row) {
        if (finite3(query(row)))
          together(&row, 1);
        else
          clear_row(args_, row);
      }
    }
  }

 private:
  const T* query(int64_t row) const { return args_.query + 3 * row; }

  void sorted(int64_t first, int64_t count) {
    Scratch scratch;
    KdLeaves<T> leaves;
    leaves.allocate(scratch, count, kQueryLeaf);
    leaves.build(query(first), count, 3, 3);
    for (int64_t i = 0; leaves.size() < count && i < count; ++i)
      if (!finite3(query(first + i))) clear_row(args_, first + i);
    in_order(leaves.index, 0, leaves.size(), first);
  }

  void in_order(const int32_t* order, int64_t begin, int64_t end, int64_t first) {
    int64_t row[Search<T, kKept>::kGroup];
    int count = 0;
    for (int64_t i = begin; i < end; ++i) {
      row[count++] = first + order[i];
      if (count < Search<T, kKept>::kGroup && i + 1 < end) continue;
      together(row, count);
      count = 0;
    }
  }

  void together(const int64_t* row, int count) {
    constexpr int kGroup = Search<T, kKept>::kGroup;
    const T* queries[kGroup];
    for (int i = 0; i < count; ++i) queries[i] = query(row[i]);
    const Nearest<T, kKept>& nearest = search_.find(queries, count);
    const int32_t base = args_.global_index ? static_cast<int32_t>(e_.rows.ref_begin) : 0;
    for (int64_t j = 0; j < args_.k; ++j) {
      T dist2[kGroup];
      int32_t number[kGroup];
      nearest.read(static_cast<int>(j), dist2, number);
      for (int i = 0; args_.root && i < kGroup; ++i) dist2[i] = std::sqrt(dist2[i]);
      for (int i = 0; i < count; ++i) {
        args_.dist2[row[i] * args_.k + j] = dist2[i];
        args_.idx[row[i] * args_.k + j] = number[i] < 0 ? -1 : number[i] + base;
      }
    }
  }

  const KnnArgs<T>& args_;
  const Element<T>& e_;
  Search<T, kKept> search_;
};

template <class T, int kKept>
void search_chunk(const KnnArgs<T>& args, const Element<T>& e, int64_t chunk) {
  Chunk<T, kKept>(args, e).run(chunk);
}

template <class T>
using ChunkFunction = void (*)(const KnnArgs<T>&, const Element<T>&, int64_t);

template <class T>
ChunkFunction<T> choose(int64_t k) {
  constexpr bool kFine = sizeof(T) == sizeof(float);  // fewer versions for the type that is less used
  if (k <= 4) return search_chunk<T, 4>;
  if (k <= 8 && kFine) return search_chunk<T, kFine ? 8 : 4>;
  if (k <= 16) return search_chunk<T, 16>;
  if (k <= 32 && kFine) return search_chunk<T, kFine ? 32 : 16>;
  return search_chunk<T, kMostNeighbours>;
}

template <class T>
void plan(const KnnArgs<T>& args, Element<T>& e) {
  const KnnElement& rows = e.rows;
  const T* ref = args.ref + 3 * rows.ref_begin;
  e.chunk = kChunk;
  if (args.query + 3 * rows.query_begin == ref && rows.query_count == rows.ref_count) {
    e.grouping = Grouping::points;
    return;
  }
  // Enough of them for their neighbours to be near, few enough for their scratch memory to be little.
  const int64_t most = rows.ref_count / 16 > kMostSorted ? rows.ref_count / 16 : kMostSorted;
  const int64_t quarter = (rows.query_count + 3) / 4;
  int64_t chunk = quarter > kLeastSorted ? quarter : kLeastSorted;
  chunk = chunk < most ? chunk : most;
  const int64_t together = chunk < rows.query_count ? chunk : rows.query_count;
  e.grouping = rows.ref_count > kSparse * together ? Grouping::none : Grouping::sorted;
  if (e.grouping == Grouping::sorted) e.chunk = chunk;
}

template <class T>
void knn(KnnArgs<T>& args) {
  Scratch scratch;
  auto* elements = scratch.take<Element<T>>(args.num_elements);
  int64_t chunks = 0, queries = 0;
  for (int64_t i = 0; i < args.num_elements; ++i) {
    Element<T>& e = elements[i];
    e.rows = args.elements[i];
    plan(args, e);
    e.first_chunk = chunks;
    chunks += (e.rows.query_count + e.chunk - 1) / e.chunk;
    queries += e.rows.query_count;
    allocate(scratch, e.rows.ref_count, e);
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
  for (int64_t i = 0; i < args.num_elements; ++i) {
    const KnnElement& e = elements[i].rows;
    for (int64_t row = e.query_begin + e.query_count; row < e.query_begin + e.query_rows; ++row) clear_row(args, row);
  }
}

}  // namespace

void knn_f32(KnnArgs<float>& args) { knn(args); }
void knn_f64(KnnArgs<double>& args) { knn(args); }

TENFOLD_END
