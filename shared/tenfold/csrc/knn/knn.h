// The k nearest reference points of each query: contract in tenfold-core 6.8.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

constexpr int64_t kMostNeighbours = 64;

// Rows of one batch element in the flattened points and queries.
struct KnnElement {
  int64_t ref_begin;
  int64_t ref_count;
  int64_t query_begin;
  int64_t query_count;
  int64_t query_rows;  // >= query_count: the rows behind have no neighbour
};

template <class T>
struct KnnArgs {
  const T* ref;    // (N, 3)
  const T* query;  // (M, 3)
  const KnnElement* elements;
  int64_t num_elements;
  int64_t k;          // 1 to kMostNeighbours
  bool global_index;  // indices are rows of ref; otherwise they count from the element's first point
  bool root;          // give distances instead of their squares
  bool validate;
  Parallel parallel;
  T* dist2;      // (query rows, k) out, ascending; +infinity where a neighbour is missing
  int32_t* idx;  // (query rows, k) out; -1 likewise
  int bad_what;         // out: 0 fine, 1 non-finite point, 2 non-finite query
  int64_t bad_element;  // out
  int64_t bad_row;      // out: inside the element
};

}  // namespace tenfold

TENFOLD_KERNEL(knn_f32, KnnArgs<float>)
TENFOLD_KERNEL(knn_f64, KnnArgs<double>)
