// Features of the points inside boxes, in slots or in the cells of a grid: contracts in tenfold-core 6.10 and 6.11.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

// `point` holds rows of an element; the boxes of an element are `boxes_per_element` rows, its points
// `points_per_element`. With one element for all, both are 0.
template <class T>
struct RoiPointArgs {
  const T* points;       // (rows, 3)
  const T* feats;        // (rows, channels)
  const int32_t* point;  // (boxes, k): first hits, ascending; entries outside [0, rows) are skipped
  const int32_t* count;  // (boxes,): all hits
  int64_t boxes, k, channels, rows;
  int64_t boxes_per_element, points_per_element;
  Parallel parallel;
  T* pooled;             // (boxes, k, 3 + channels) out
  const T* grad;         // backward: as pooled
  T* grad_feats;         // backward out: (rows, channels)
};

template <class T>
struct RoiGridArgs {
  const T* rois;          // (boxes, 7)
  const T* points;        // (rows, 3)
  const T* feats;         // (rows, channels)
  const int64_t* begin;   // (boxes + 1,) where the list of each box begins in `point`
  const int32_t* point;   // rows of points, ascending in each list
  int64_t boxes, channels, rows;
  int64_t grid[3];
  int64_t max_points;
  bool maximum;
  Parallel parallel;
  T* pooled;              // (boxes, cells, channels) out
  int32_t* arg;           // maximum: (boxes, cells, channels) out, or null
  const T* grad;          // backward: as pooled
  const int32_t* arg_in;  // backward of the maximum; entries outside [0, rows) are skipped
  T* grad_feats;          // backward out: (rows, channels)
};

}  // namespace tenfold

TENFOLD_KERNEL(roi_point_pool_f32, RoiPointArgs<float>)
TENFOLD_KERNEL(roi_point_pool_f64, RoiPointArgs<double>)
TENFOLD_KERNEL(roi_point_pool_backward_f32, RoiPointArgs<float>)
TENFOLD_KERNEL(roi_point_pool_backward_f64, RoiPointArgs<double>)
TENFOLD_KERNEL(roi_grid_pool_f32, RoiGridArgs<float>)
TENFOLD_KERNEL(roi_grid_pool_f64, RoiGridArgs<double>)
TENFOLD_KERNEL(roi_grid_pool_backward_f32, RoiGridArgs<float>)
TENFOLD_KERNEL(roi_grid_pool_backward_f64, RoiGridArgs<double>)
