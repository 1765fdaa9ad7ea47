// Filters as weighted sums of rows. A row is kept as `arrays` side by side, array r holding every arrays-th sample from r
// on, so that up- and downsampling read and write neighbours: no zeros are multiplied and no lane is shuffled.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "common/arena.h"
#include "common/fma.h"
#include "fir/fir.h"

TENFOLD_BEGIN

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0); }
inline int64_t floor_mod(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

template <class T>
struct Same {
  template <class V>
  V operator()(V sum, int64_t) const {
    return sum;
  }
};

template <class T>
struct Plus {
  T shift;
  vec<T> operator()(vec<T> sum, int64_t) const { return sum + splat(shift); }
  T operator()(T sum, int64_t) const { return sum + shift; }
};

template <class T, int P, class Post>
inline void weighted_strip(T* dst, int64_t at, const T* const* src, const T* coef, int64_t n, const Post& post) {
  constexpr int W = kWidth<T>;
  vec<T> sum[P] = {};
  for (int64_t k = 0; k < n; ++k) {
    const vec<T> c = splat(coef[k]);
    const T* from = src[k] + at;
    for (int j = 0; j < P; ++j) sum[j] = multiply_add(c, vload(from + j * W), sum[j]);
  }
  for (int j = 0; j < P; ++j) vstore(dst + at + j * W, post(sum[j], at + j * W));
}

// dst[i] = post(sum over k of coef[k] src[k][i], i) for i in [0, count), terms in ascending k. Reads and writes nothing
// beyond count; dst overlaps no source.
template <class T, class Post>
void weighted_rows(T* dst, int64_t count, const T* const* src, const T* coef, int64_t n, const Post& post) {
  constexpr int W = kWidth<T>;
  int64_t at = 0;
  for (; at + 4 * W <= count; at += 4 * W) weighted_strip<T, 4>(dst, at, src, coef, n, post);
  if (at + 2 * W <= count) {
    weighted_strip<T, 2>(dst, at, src, coef, n, post);
    at += 2 * W;
  }
  if (at + W <= count) {
    weighted_strip<T, 1>(dst, at, src, coef, n, post);
    at += W;
  }
  if (at == count) return;
  if (count >= W) return weighted_strip<T, 1>(dst, count - W, src, coef, n, post);
  for (; at < count; ++at) {
    T sum = 0;
    for (int64_t k = 0; k < n; ++k) sum += coef[k] * src[k][at];
    dst[at] = post(sum, at);
  }
}

// Coefficients in the order of a correlation. A matrix of rank one becomes two rows of taps.
template <class T>
struct Taps {
  bool separable;
  int64_t height, width;
  const T* y;     // (height), separable
  const T* x;     // (width), separable
  const T* full;  // (height, width) otherwise
};

template <class T>
Taps<T> make_taps(Scratch& scratch, const FirFilter<T>& f, T gain) {
  Taps<T> taps{f.separable, f.height, f.separable ? f.height : f.width, nullptr, nullptr, nullptr};
  T* y = scratch.take<T>(taps.height);
  T* x = scratch.take<T>(taps.width);
  taps.y = y;
  taps.x = x;
  if (f.separable) {
    for (int64_t k = 0; k < taps.height; ++k) {
      x[k] = f.taps[f.flip ? k : taps.height - 1 - k];
      y[k] = x[k] * gain;
    }
    return taps;
  }
  const int64_t size = taps.height * taps.width;
  T* full = scratch.take<T>(size);
  for (int64_t k = 0; k < size; ++k) full[k] = f.taps[f.flip ? k : size - 1 - k] * gain;
  taps.full = full;
  int64_t pivot = 0;
  for (int64_t k = 1; k < size; ++k)
    if (std::abs(full[k]) > std::abs(full[pivot])) pivot = k;
  const int64_t row = pivot / taps.width, column = pivot % taps.width;
  for (int64_t k = 0; k < taps.height; ++k) y[k] = full[k * taps.width + column];
  for (int64_t k = 0; k < taps.width; ++k) x[k] = full[row * taps.width + k] / full[pivot];
  const T tolerance = 4 * std::numeric_limits<T>::epsilon() * std::abs(full[pivot]);
  taps.separable = true;
  for (int64_t k = 0; k < size; ++k)
    taps.separable = taps.separable && std::abs(full[k] - y[k / taps.width] * x[k % taps.width]) <= tolerance;
  return taps;
}

// What one output array of a pass along x reads: coefficient k of tap tap[k], at offset[k] of array[k].
struct PhaseTerms {
  int64_t n;
  int64_t* tap;
  int64_t* array;
  int64_t* offset;
};

// A pass along x between rows of arrays. `period` is a multiple of up and of down: rows come in as period / up arrays
// and leave as period / down.
struct RowPlan {
  int64_t n_in, n_out, arrays_in, arrays_out;
  int64_t left;    // zeros in front of every array that comes in
  int64_t stride;  // from one such array to the next
  int64_t out_stride;
  PhaseTerms* phase;

  int64_t count_in(int64_t r) const { return n_in > r ? (n_in - r - 1) / arrays_in + 1 : 0; }
  int64_t count_out(int64_t q) const { return n_out > q ? (n_out - q - 1) / arrays_out + 1 : 0; }
  int64_t row_size() const { return arrays_in * stride; }
  int64_t out_row_size() const { return arrays_out * out_stride; }
};

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline RowPlan make_plan(Scratch& scratch, const FirAxis& axis, int64_t taps, int64_t period, int64_t n_in,
                         int64_t n_out) {
  RowPlan plan{};
  plan.n_in = n_in;
  plan.n_out = n_out;
  plan.arrays_in = period / axis.up;
  plan.arrays_out = period / axis.down;
  plan.phase = scratch.take<PhaseTerms>(plan.arrays_out);
  int64_t lowest = 0, highest = 0;
  for (int64_t q = 0; q < plan.arrays_out; ++q) {
    PhaseTerms& terms = plan.phase[q];
    terms = {0, scratch.take<int64_t>(taps), scratch.take<int64_t>(taps), scratch.take<int64_t>(taps)};
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t at = axis.down * q + k - axis.pad;
      if (floor_mod(at, axis.up) != 0) continue;
      const int64_t sample = floor_div(at, axis.up);
      terms.tap[terms.n] = k;
      terms.array[terms.n] = floor_mod(sample, plan.arrays_in);
      terms.offset[terms.n] = floor_div(sample, plan.arrays_in);
      lowest = std::min(lowest, terms.offset[terms.n]);
      highest = std::max(highest, terms.offset[terms.n]);
      ++terms.n;
    }
  }
  plan.left = -lowest;
  plan.stride = round_up(plan.left + std::max(plan.count_in(0), plan.count_out(0) + highest) + 1, 16);
  plan.out_stride = round_up(plan.count_out(0), 16) + 16;
  return plan;
}

// The rows of the input that output row j reads, in ascending order: their numbers and taps.
struct ColumnTerms {
  int64_t n;
  int64_t* tap;
  int64_t* row;
};

inline void rows_of(ColumnTerms& terms, const FirAxis& axis, int64_t taps, int64_t n_in, int64_t j) {
  terms.n = 0;
  const int64_t base = axis.down * j - axis.pad;
  for (int64_t k = floor_mod(-base, axis.up); k < taps; k += axis.up) {
    const int64_t row = (base + k) / axis.up;  // exact
    if (row < 0 || row >= n_in) continue;
    terms.tap[terms.n] = k;
    terms.row[terms.n++] = row;
  }
}

inline ColumnTerms make_column(Scratch& scratch, int64_t taps) {
  return {0, scratch.take<int64_t>(taps), scratch.take<int64_t>(taps)};
}

// Room for pointers and coefficients of one weighted sum.
template <class T>
struct Sum {
  const T** src;
  T* coef;
  Sum(Scratch& scratch, int64_t n) : src(scratch.take<const T*>(n)), coef(scratch.take<T>(n)) {}
};

// Splits a row of `count` samples into its arrays, or joins them.
template <class T>
void split_row(const T* from, int64_t count, T* arrays, int64_t n, int64_t stride) {
  if (n == 2) {
    for (int64_t i = 0; i < count / 2; ++i) {
      arrays[i] = from[2 * i];
      arrays[stride + i] = from[2 * i + 1];
    }
    if (count % 2 != 0) arrays[count / 2] = from[count - 1];
    return;
  }
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = r, k = 0; i < count; i += n, ++k) arrays[r * stride + k] = from[i];
}

template <class T>
void join_row(const T* arrays, int64_t n, int64_t stride, T* to, int64_t count) {
  if (n == 2) {
    for (int64_t i = 0; i < count / 2; ++i) {
      to[2 * i] = arrays[i];
      to[2 * i + 1] = arrays[stride + i];
    }
    if (count % 2 != 0) to[count - 1] = arrays[count / 2];
    return;
  }
  for (int64_t r = 0; r < n; ++r)
    for (int64_t i = r, k = 0; i < count; i += n, ++k) to[i] = arrays[r * stride + k];
}

// Rows of one plane, resampled along both axes: output rows come as arrays of the period.
template <class T>
class RowSource {
 public:
  RowSource(Scratch& scratch, const FirFilter<T>& filter, T gain, const FirAxis& y_axis, const FirAxis& x_axis,
            int64_t period, int64_t in_height, int64_t in_width, int64_t out_width)
      : taps_(make_taps(scratch, filter, gain)),
        y_axis_(y_axis),
        height_(in_height),
        width_(in_width),
        plan_(make_plan(scratch, x_axis, taps_.width, period, in_width, out_width)),
        column_(make_column(scratch, taps_.height)),
        sum_(scratch, std::max<int64_t>(taps_.height * taps_.width, taps_.height + taps_.width)),
        line_(scratch.take<T>(in_width)),
        rows_(scratch.zeros<T>((taps_.separable ? 1 : in_height) * plan_.row_size())) {}

  const RowPlan& plan() const { return plan_; }

  // The plane that the following rows come from; `shift` is added to every sample.
  void set_plane(const T* plane, T shift) {
    plane_ = plane;
    shift_ = shift;
    if (taps_.separable) return;
    for (int64_t y = 0; y < height_; ++y) {
      for (int64_t x = 0; x < width_; ++x) line_[x] = plane[y * width_ + x] + shift;
      split_row(line_, width_, rows_ + y * plan_.row_size() + plan_.left, plan_.arrays_in, plan_.stride);
    }
  }

  // Output row j: array q at to + q * stride. `post(q)` makes what finishes the sums of array q.
  template <class MakePost>
  void row(int64_t j, T* to, int64_t stride, const MakePost& post) {
    rows_of(column_, y_axis_, taps_.height, height_, j);
    if (taps_.separable) {
      along_y();
      for (int64_t q = 0; q < plan_.arrays_out; ++q) {
        const PhaseTerms& terms = plan_.phase[q];
        for (int64_t k = 0; k < terms.n; ++k) {
          sum_.coef[k] = taps_.x[terms.tap[k]];
          sum_.src[k] = at(rows_, terms, k);
        }
        weighted_rows(to + q * stride, plan_.count_out(q), sum_.src, sum_.coef, terms.n, post(q));
      }
      return;
    }
    for (int64_t q = 0; q < plan_.arrays_out; ++q) {
      const PhaseTerms& terms = plan_.phase[q];
      int64_t n = 0;
      for (int64_t i = 0; i < column_.n; ++i)
        for (int64_t k = 0; k < terms.n; ++k, ++n) {
          sum_.coef[n] = taps_.full[column_.tap[i] * taps_.width + terms.tap[k]];
          sum_.src[n] = at(rows_ + column_.row[i] * plan_.row_size(), terms, k);
        }
      weighted_rows(to + q * stride, plan_.count_out(q), sum_.src, sum_.coef, n, post(q));
    }
  }

 private:
  const T* at(const T* row, const PhaseTerms& terms, int64_t k) const {
    return row + terms.array[k] * plan_.stride + plan_.left + terms.offset[k];
  }

  // The weighted sum of input rows, as arrays between their zeros.
  void along_y() {
    T shift = 0;
    for (int64_t k = 0; k < column_.n; ++k) {
      sum_.coef[k] = taps_.y[column_.tap[k]];
      sum_.src[k] = plane_ + column_.row[k] * width_;
      shift += sum_.coef[k] * shift_;
    }
    T* to = plan_.arrays_in == 1 ? rows_ + plan_.left : line_;
    weighted_rows(to, width_, sum_.src, sum_.coef, column_.n, Plus<T>{shift});
    if (plan_.arrays_in > 1) split_row(line_, width_, rows_ + plan_.left, plan_.arrays_in, plan_.stride);
  }

  Taps<T> taps_;
  FirAxis y_axis_;
  int64_t height_, width_;
  RowPlan plan_;
  ColumnTerms column_;
  Sum<T> sum_;
  T* line_;
  T* rows_;
  const T* plane_ = nullptr;
  T shift_ = 0;
};

// Pieces of work: planes, or where there are few of them blocks of their output rows. Fixed by sizes alone.
struct PlaneTasks {
  int64_t blocks, block_rows, group;
  PlaneTasks(int64_t planes, int64_t rows, int64_t work_per_row) {
    constexpr int64_t kTasks = 64, kLeastRows = 16, kLeastWork = 1 << 19;
    blocks = planes >= kTasks ? 1 : std::max<int64_t>(1, std::min(kTasks / std::max<int64_t>(planes, 1), rows / kLeastRows));
    block_rows = (rows + blocks - 1) / std::max<int64_t>(blocks, 1);
    group = std::max<int64_t>(1, kLeastWork / std::max<int64_t>(1, block_rows * work_per_row));
  }
};

TENFOLD_END
