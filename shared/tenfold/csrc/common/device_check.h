// Validation of content on the device: the first bad row, which costs a synchronisation and is asked for only at
// validation level "full".
#pragma once
#include "common/device.h"

namespace tenfold::device {

template <class F>
struct NoteFirst {
  F bad;
  unsigned long long* first;
  __device__ void operator()(int64_t i) const {
    if (bad(i)) atomicMin(first, static_cast<unsigned long long>(i));
  }
};

// The smallest i < n with bad(i), or -1.
template <class F>
int64_t first_bad(const Stream& stream, int64_t n, F bad) {
  auto* first = stream.scratch<unsigned long long>(1);
  fill_device(stream, first, 0xff, sizeof(*first));
  each("first_bad", stream, n, NoteFirst<F>{bad, first});
  const unsigned long long value = read_back(stream, first);
  return value == ~0ull ? -1 : static_cast<int64_t>(value);
}

template <class T>
struct RowNotFinite {
  const T* rows;
  int64_t columns;  // distance of rows
  int64_t used;
  __device__ bool operator()(int64_t i) const {
    bool fine = true;
    for (int64_t c = 0; c < used; ++c) fine = fine && is_finite(rows[i * columns + c]);
    return !fine;
  }
};
template <class T>
int64_t first_not_finite(const Stream& stream, const T* rows, int64_t n, int64_t columns, int64_t used) {
  return first_bad(stream, n, RowNotFinite<T>{rows, columns, used});
}

// Rows of one input that must be finite, all of their columns.
template <class T>
struct InputRows {
  const T* rows;
  int64_t count;
  int64_t columns;
};

// Validation of operators with two inputs in elements of a batch: `inputs(element, which)` gives the rows of input 1 or 2.
// Notes the first bad row in bad_element, bad_what and bad_row.
template <class Args, class F>
bool elements_finite(const Stream& stream, Args& a, F inputs) {
  a.bad_what = 0;
  for (int64_t e = 0; a.validate && e < a.num_elements; ++e) {
    a.bad_element = e;
    for (int which = 1; which <= 2; ++which) {
      const auto in = inputs(a.elements[e], which);
      a.bad_row = first_not_finite(stream, in.rows, in.count, in.columns, in.columns);
      if (a.bad_row < 0) continue;
      a.bad_what = which;
      return false;
    }
  }
  return true;
}

template <class Index>
struct IndexOutside {
  const Index* index;
  int64_t end;
  __device__ bool operator()(int64_t i) const { return index[i] < -1 || static_cast<int64_t>(index[i]) >= end; }
};

}  // namespace tenfold::device
