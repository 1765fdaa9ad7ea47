// Membership of points in rotated boxes for data loaders: the kernel of the torch op, run serially.
#pragma once
#include "host/host.h"

// points (n, 3), boxes (m, 7). output: 0 first (n,) preset to -1; 1 mask (m, n) preset to 0; 2 count: hits of each
// (box, piece of points) in place, (m, pieces); 3 fill: reads in place where each piece's hits go in point.
// Buffers of other outputs are not touched. A piece is 32768 points. Returns 0, or 1 where the input is not
// finite: bad is then {0 for points or 1 for boxes, the row}.
#define TENFOLD_HOST_POINTS_IN_BOXES(suffix, T)                                                                \
  TENFOLD_HOST int64_t tenfold_host_points_in_boxes_##suffix(                                                  \
      int64_t n, const T* points, int64_t m, const T* boxes, double margin, double z_margin, int64_t output,   \
      int32_t* first, uint8_t* mask, int64_t* place, int32_t* point, int64_t* bad)

TENFOLD_HOST_POINTS_IN_BOXES(f32, float);
TENFOLD_HOST_POINTS_IN_BOXES(f64, double);
