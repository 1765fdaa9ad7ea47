#include "fps/fps.h"

#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/grid.h"
#include "common/vec.h"
#include "fps/tree.h"

TENFOLD_BEGIN

namespace {

template <class T>
constexpr T infinity() {
  return std::numeric_limits<T>::infinity();
}

// ---- every point at every pick -------------------------------------------------------------------------

// Points as columns with their distance to the nearest chosen point; -infinity where a point cannot be chosen.
template <class T>
class Plain {
 public:
  void prepare(Scratch& scratch, const T* xyz, int64_t n, int64_t columns, int64_t dims) {
    n_ = n;
    dims_ = dims;
    distance_ = scratch.take<T>(n);
    column_ = scratch.take<T>(n * dims);
    for (int64_t i = 0; i < n; ++i) {
      const bool fine = all_finite(xyz + i * columns, dims);
      distance_[i] = fine ? infinity<T>() : -infinity<T>();
      for (int64_t a = 0; a < dims; ++a) column_[a * n + i] = fine ? xyz[i * columns + a] : T(0);
    }
  }

  // Lowers the distances by point `row` and returns the lowest index of the largest, or -1.
  int64_t pick(int64_t row) {
    constexpr int64_t kBlock = 256;
    T best = -infinity<T>();
    int64_t found = -1;
    for (int64_t begin = 0; begin < n_; begin += kBlock) {
      const int64_t end = begin + kBlock < n_ ? begin + kBlock : n_;
      T d2[kBlock];
      const T q = column_[row];
      for (int64_t i = begin; i < end; ++i) {
        const T d = column_[i] - q;
        d2[i - begin] = d * d;
      }
      for (int64_t a = 1; a < dims_; ++a) {
        const T* column = column_ + a * n_;
        const T r = column[row];
        for (int64_t i = begin; i < end; ++i) {
          const T d = column[i] - r;
          d2[i - begin] = d2[i - begin] + d * d;
        }
      }
      T top = -infinity<T>();
      for (int64_t i = begin; i < end; ++i) {
        distance_[i] = d2[i - begin] < distance_[i] ? d2[i - begin] : distance_[i];
        top = distance_[i] > top ? distance_[i] : top;
      }
      if (!(top > best)) continue;
      best = top;
      for (found = begin; distance_[found] != top;) ++found;
    }
    return found;
  }

 private:
  int64_t n_ = 0;
  int64_t dims_ = 0;
  T* distance_ = nullptr;
  T* column_ = nullptr;
};

// ---- one element ---------------------------------------------------------------------------------------

constexpr int64_t kTreePoints = 256;  // below, and for few samples, building a tree does not pay
constexpr int64_t kTreeSamples = 24;

template <class T>
void sample_by_tree(const FpsArgs<T>& args, const FpsElement& e, int64_t row) {
  const T* xyz = args.xyz + e.begin * args.columns;
  int64_t* out = args.out + e.place;
  const int64_t base = args.global_index ? e.begin : 0;
  Scratch scratch;
  FpsTree<T> tree(scratch, xyz, e.count, args.columns, args.dims);
  for (int64_t j = 0; j < e.samples; ++j) {
    out[j] = base + row;
    T q[3] = {0, 0, 0};
    for (int64_t a = 0; a < args.dims; ++a) q[a] = xyz[row * args.columns + a];
    if (j + 1 < e.samples) row = tree.choose(q);
  }
}

template <class T>
void sample_plainly(const FpsArgs<T>& args, const FpsElement& e, int64_t row) {
  int64_t* out = args.out + e.place;
  const int64_t base = args.global_index ? e.begin : 0;
  Scratch scratch;
  Plain<T> plain;
  plain.prepare(scratch, args.xyz + e.begin * args.columns, e.count, args.columns, args.dims);
  for (int64_t j = 0; j < e.samples; ++j) {
    out[j] = base + row;
    if (j + 1 < e.samples) row = plain.pick(row);
  }
}

// The first sample: `start`, or the first finite point where that is not finite; -1 without any.
template <class T>
int64_t first_row(const FpsArgs<T>& args, const FpsElement& e) {
  const auto finite = [&](int64_t i) { return all_finite(args.xyz + (e.begin + i) * args.columns, args.dims); };
  if (e.count > 0 && finite(e.start)) return e.start;
  for (int64_t i = 0; i < e.count; ++i)
    if (finite(i)) return i;
  return -1;
}

template <class T>
void sample(const FpsArgs<T>& args, const FpsElement& e) {
  if (e.samples == 0) return;
  const int64_t row = first_row(args, e);
  if (row < 0) {
    for (int64_t j = 0; j < e.samples; ++j) args.out[e.place + j] = -1;
  } else if (args.dims <= 3 && e.count >= kTreePoints && e.samples >= kTreeSamples) {
    sample_by_tree(args, e, row);
  } else {
    sample_plainly(args, e, row);
  }
}

template <class T>
int64_t first_bad(const FpsArgs<T>& args, const FpsElement& e) {
  for (int64_t i = 0; i < e.count; ++i)
    if (!all_finite(args.xyz + (e.begin + i) * args.columns, args.dims)) return i;
  return -1;
}

template <class T>
void fps(FpsArgs<T>& args) {
  args.bad_element = -1;
  for (int64_t e = 0; args.validate && e < args.num_elements; ++e) {
    args.bad_row = first_bad(args, args.elements[e]);
    if (args.bad_row < 0) continue;
    args.bad_element = e;
    return;
  }
  parallel_tasks(args.parallel, args.num_elements, [&](int64_t e) { sample(args, args.elements[e]); });
}

// ---- given distances -----------------------------------------------------------------------------------

template <class T>
void sample_dist(const FpsDistArgs<T>& args, int64_t element) {
  const FpsElement& e = args.elements[element];
  int64_t* out = args.out + e.place;
  if (e.count == 0) {
    for (int64_t j = 0; j < e.samples; ++j) out[j] = -1;
    return;
  }
  Scratch scratch;
  T* distance = scratch.take<T>(e.count);
  for (int64_t i = 0; i < e.count; ++i) distance[i] = infinity<T>();
  int64_t row = e.start;
  for (int64_t j = 0; j < e.samples; ++j) {
    out[j] = row;
    const T* from = args.dist + (element * args.n + row) * args.n;
    T top = -infinity<T>();
    for (int64_t i = 0; i < e.count; ++i) {
      const bool lower = (from[i] < distance[i]) & (from[i] > -infinity<T>());
      distance[i] = lower ? from[i] : distance[i];
      top = distance[i] > top ? distance[i] : top;
    }
    for (row = 0; distance[row] != top;) ++row;
  }
}

template <class T>
void fps_dist(FpsDistArgs<T>& args) {
  args.bad_element = -1;
  for (int64_t e = 0; args.validate && e < args.num_elements; ++e) {
    for (int64_t i = 0; i < args.elements[e].count; ++i) {
      const T* row = args.dist + (e * args.n + i) * args.n;
      if (all_finite(row, args.elements[e].count)) continue;
      args.bad_element = e;
      args.bad_row = i;
      for (args.bad_column = 0; finite_bits(row[args.bad_column]);) ++args.bad_column;
      return;
    }
  }
  parallel_tasks(args.parallel, args.num_elements, [&](int64_t e) { sample_dist(args, e); });
}

}  // namespace

void fps_f32(FpsArgs<float>& args) { fps(args); }
void fps_f64(FpsArgs<double>& args) { fps(args); }
void fps_dist_f32(FpsDistArgs<float>& args) { fps_dist(args); }
void fps_dist_f64(FpsDistArgs<double>& args) { fps_dist(args); }

TENFOLD_END
