// Farthest point sampling: contract in tenfold-core 6.6.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

// One batch element: rows [begin, begin + count) are sampled `samples` times.
struct FpsElement {
  int64_t begin;
  int64_t count;
  int64_t start;    // 0 <= start < count, unless count = 0
  int64_t samples;
  int64_t place;    // of its first sample in the output
};

template <class T>
struct FpsArgs {
  const T* xyz;      // (rows, columns)
  int64_t columns;
  int64_t dims;      // the first columns that count, 1 <= dims <= columns
  const FpsElement* elements;
  int64_t num_elements;
  bool global_index;  // samples are rows of xyz; otherwise they count from the element's first row
  bool validate;
  Parallel parallel;
  int64_t* out;
  int64_t bad_element;  // out: element with a non-finite coordinate, or -1
  int64_t bad_row;      // out: inside the element
};

// The same on given distances: element e has an (n, n) table, of which the first `count` rows and columns count.
template <class T>
struct FpsDistArgs {
  const T* dist;
  int64_t n;
  const FpsElement* elements;
  int64_t num_elements;
  bool validate;
  Parallel parallel;
  int64_t* out;
  int64_t bad_element;
  int64_t bad_row;
  int64_t bad_column;
};

}  // namespace tenfold

TENFOLD_KERNEL(fps_f32, FpsArgs<float>)
TENFOLD_KERNEL(fps_f64, FpsArgs<double>)
TENFOLD_KERNEL(fps_dist_f32, FpsDistArgs<float>)
TENFOLD_KERNEL(fps_dist_f64, FpsDistArgs<double>)
