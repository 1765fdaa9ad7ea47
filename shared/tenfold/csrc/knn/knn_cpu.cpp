#include "knn/knn.h"

#include <limits>

#include "common/arena.h"
#include "common/grid.h"

TENFOLD_BEGIN

namespace {

// The nearest so far, ascending; equal distances in the order of their index.
template <class T>
struct Nearest {
  int64_t k;
  T* dist2;
  int32_t* idx;
  int64_t found;

  void add(T d2, int32_t index) {
    if (!(d2 < std::numeric_limits<T>::infinity())) return;
    const auto before = [&](int64_t at) { return d2 < dist2[at] || (d2 == dist2[at] && index < idx[at]); };
    if (found == k && !before(k - 1)) return;
    int64_t at = found < k ? found++ : k - 1;
    for (; at > 0 && before(at - 1); --at) {
      dist2[at] = dist2[at - 1];
      idx[at] = idx[at - 1];
    }
    dist2[at] = d2;
    idx[at] = index;
  }
};

template <class T>
void search_all(const KnnArgs<T>& args, const KnnElement& e, int64_t row) {
  const T* q = args.query + 3 * row;
  Nearest<T> nearest{args.k, args.dist2 + row * args.k, args.idx + row * args.k, 0};
  const int32_t base = args.global_index ? static_cast<int32_t>(e.ref_begin) : 0;
  for (int64_t i = 0; finite3(q) && i < e.ref_count; ++i) {
    const T* p = args.ref + 3 * (e.ref_begin + i);
    const T dx = p[0] - q[0], dy = p[1] - q[1], dz = p[2] - q[2];
    if (finite3(p)) nearest.add((dx * dx + dy * dy) + dz * dz, static_cast<int32_t>(i) + base);
  }
  for (int64_t j = nearest.found; j < args.k; ++j) {
    nearest.dist2[j] = std::numeric_limits<T>::infinity();
    nearest.idx[j] = -1;
  }
}

template <class T>
bool check_finite(KnnArgs<T>& args) {
  args.bad_what = 0;
  for (int64_t i = 0; args.validate && i < args.num_elements; ++i) {
    const KnnElement& e = args.elements[i];
    args.bad_element = i;
    args.bad_row = first_bad_row(args.ref + 3 * e.ref_begin, e.ref_count);
    if (args.bad_row >= 0) args.bad_what = 1;
    if (args.bad_what == 0) {
      args.bad_row = first_bad_row(args.query + 3 * e.query_begin, e.query_count);
      if (args.bad_row >= 0) args.bad_what = 2;
    }
    if (args.bad_what != 0) return false;
  }
  return true;
}

template <class T>
void knn(KnnArgs<T>& args) {
  if (!check_finite(args)) return;
  for (int64_t i = 0; i < args.num_elements; ++i) {
    const KnnElement& e = args.elements[i];
    parallel_ranges(args.parallel, e.query_count, 64, [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) search_all(args, e, e.query_begin + r);
    });
    for (int64_t r = (e.query_begin + e.query_count) * args.k; r < (e.query_begin + e.query_rows) * args.k; ++r) {
      args.dist2[r] = std::numeric_limits<T>::infinity();
      args.idx[r] = -1;
    }
  }
}

}  // namespace

void knn_f32(KnnArgs<float>& args) { knn(args); }
void knn_f64(KnnArgs<double>& args) { knn(args); }

TENFOLD_END
