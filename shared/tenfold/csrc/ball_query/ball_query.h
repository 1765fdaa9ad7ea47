// First k neighbours of each centre within a radius, in index order: contract in tenfold-core 6.7.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

// Rows of one batch element in the flattened points and centres.
struct BallElement {
  int64_t point_begin;
  int64_t point_count;
  int64_t center_begin;
  int64_t center_count;
  int64_t center_rows;  // >= center_count: the rows behind have no neighbour
};

// One radius of a multi-radius query, and its tables.
struct BallScale {
  double radius;
  double min_radius;
  int64_t k;
  int32_t* idx;    // (centre rows, k) out
  int32_t* count;  // (centre rows,) out
};

template <class T>
struct BallQueryArgs {
  const T* xyz;      // (N, 3)
  const T* centers;  // (M, 3)
  const BallElement* elements;
  int64_t num_elements;
  bool global_index;  // indices are rows of xyz; otherwise they count from the element's first point
  const BallScale* scales;
  int64_t num_scales;
  bool validate;
  Parallel parallel;
  int bad_what;         // out: 0 fine, 1 non-finite point, 2 non-finite centre
  int64_t bad_element;  // out
  int64_t bad_row;      // out: inside the element
};

}  // namespace tenfold

TENFOLD_KERNEL(ball_query_f32, BallQueryArgs<float>)
TENFOLD_KERNEL(ball_query_f64, BallQueryArgs<double>)
