#include "interpolate/interpolate.h"

#include "common/arena.h"
#include "common/bytes.h"
#include "common/row_groups.h"
#include "common/table_check.h"

TENFOLD_BEGIN

namespace {

template <class T>
void add_scaled(T* __restrict to, const T* __restrict from, T w, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) to[c] += w * from[c];
}

// Three named rows in one pass over the channels, in the order of the slots.
template <class T>
void combine3(T* __restrict to, const T* a, const T* b, const T* c, const T* w, int64_t channels) {
  const T u = w[0], v = w[1], x = w[2];
  for (int64_t i = 0; i < channels; ++i) to[i] = (u * a[i] + v * b[i]) + x * c[i];
}

template <class T>
void interpolate_rows(const InterpolateArgs<T>& a, int64_t begin, int64_t end) {
  const IndexTable& t = a.table;
  for (int64_t g = begin; g < end; ++g) {
    const T* feats = a.feats + g / t.groups * t.n * a.channels;
    const T* w = a.weight + g * t.k;
    T* to = a.out + g * a.channels;
    const T* row[3];
    int64_t named = 0;
    for (int64_t j = 0; t.k == 3 && j < 3; ++j) {
      const int64_t i = t.at(g * 3 + j);
      if (i >= 0 && i < t.n) row[named++] = feats + i * a.channels;
    }
    if (named == 3) {
      combine3(to, row[0], row[1], row[2], w, a.channels);
      continue;
    }
    fill_bytes(to, 0, static_cast<size_t>(a.channels) * sizeof(T));
    for (int64_t j = 0; j < t.k; ++j) {
      const int64_t i = t.at(g * t.k + j);
      if (i >= 0 && i < t.n) add_scaled(to, feats + i * a.channels, w[j], a.channels);
    }
  }
}

template <class T>
void interpolate(InterpolateArgs<T>& a) {
  if (!check_table(a.table)) return;
  const int64_t bytes = (a.table.k + 1) * a.channels * static_cast<int64_t>(sizeof(T));
  parallel_ranges(a.parallel, a.table.elements * a.table.groups, piece_of(bytes),
                  [&](int64_t, int64_t begin, int64_t end) { interpolate_rows(a, begin, end); });
}

// The entries of the table that name each row, ascending: rows `start[r]` to `start[r + 1]` of `entry`.
void transpose(const IndexTable& t, int64_t element, int64_t* start, int64_t* entry) {
  const int64_t first = element * t.groups * t.k;
  const int64_t count = t.groups * t.k;
  fill_bytes(start, 0, static_cast<size_t>(t.n + 2) * sizeof(int64_t));
  for (int64_t e = first; e < first + count; ++e) {
    const int64_t row = t.at(e);
    if (row >= 0 && row < t.n) ++start[row + 2];
  }
  for (int64_t r = 2; r < t.n + 2; ++r) start[r] += start[r - 1];
  for (int64_t e = first; e < first + count; ++e) {
    const int64_t row = t.at(e);
    if (row >= 0 && row < t.n) entry[start[row + 1]++] = e;
  }
}

template <class T>
void backward_feats(const InterpolateBackwardArgs<T>& a) {
  const IndexTable& t = a.table;
  Scratch scratch;
  auto* start = scratch.take<int64_t>(t.n + 2);
  auto* entry = scratch.take<int64_t>(t.groups * t.k);
  const int64_t bytes = a.channels * static_cast<int64_t>(sizeof(T)) * (1 + t.groups * t.k / (t.n + 1));
  for (int64_t element = 0; element < t.elements; ++element) {
    transpose(t, element, start, entry);
    T* to = a.grad_feats + element * t.n * a.channels;
    parallel_ranges(a.parallel, t.n, piece_of(bytes), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        T* sum = to + row * a.channels;
        fill_bytes(sum, 0, static_cast<size_t>(a.channels) * sizeof(T));
        for (int64_t i = start[row]; i < start[row + 1]; ++i)
          add_scaled(sum, a.grad + entry[i] / t.k * a.channels, a.weight[entry[i]], a.channels);
      }
    });
  }
}

// Sixteen partial sums, added in a fixed order whatever the vector width.
template <class T>
T dot(const T* a, const T* b, int64_t n) {
  constexpr int kParts = 16;
  T part[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= n; i += kParts)
    for (int p = 0; p < kParts; ++p) part[p] += a[i + p] * b[i + p];
  for (int p = 0; i < n; ++i, ++p) part[p] += a[i] * b[i];
  for (int step = kParts / 2; step > 0; step /= 2)
    for (int p = 0; p < step; ++p) part[p] += part[p + step];
  return part[0];
}

template <class T>
void backward_weight(const InterpolateBackwardArgs<T>& a) {
  const IndexTable& t = a.table;
  const int64_t bytes = (t.k + 1) * a.channels * static_cast<int64_t>(sizeof(T));
  parallel_ranges(a.parallel, t.elements * t.groups, piece_of(bytes), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t e = begin * t.k; e < end * t.k; ++e) {
      const int64_t g = e / t.k;
      const int64_t row = t.at(e);
      const bool named = row >= 0 && row < t.n;
      const T* feats = a.feats + (g / t.groups * t.n + (named ? row : 0)) * a.channels;
      a.grad_weight[e] = named ? dot(feats, a.grad + g * a.channels, a.channels) : T(0);
    }
  });
}

template <class T>
void backward(InterpolateBackwardArgs<T>& a) {
  if (a.grad_feats != nullptr) backward_feats(a);
  if (a.grad_weight != nullptr) backward_weight(a);
}

}  // namespace

void interpolate_f32(InterpolateArgs<float>& args) { interpolate(args); }
void interpolate_f64(InterpolateArgs<double>& args) { interpolate(args); }
void interpolate_backward_f32(InterpolateBackwardArgs<float>& args) { backward(args); }
void interpolate_backward_f64(InterpolateBackwardArgs<double>& args) { backward(args); }

TENFOLD_END
