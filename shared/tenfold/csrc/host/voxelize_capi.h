// Voxelisation for data loaders: the kernel of the torch op, run serially.
#pragma once
#include "host/host.h"

// points (n, channels); offsets (batch + 1,); lower, size and cells along x, y, z; multiplier: odd.
// Out: point2voxel (n,), dropped (3,), and for `rows` voxels at most: voxels (rows, max_points, channels) or with
// mean (rows, channels), untouched when copy is 0; coords (rows, 4); num_points (rows,). Returns the number of
// voxels, or kRefused: bad_row then names the first point that is not finite, or is -1 where rows are too few.
#define TENFOLD_HOST_VOXELIZE(suffix, T)                                                                          \
  TENFOLD_HOST int64_t tenfold_host_voxelize_##suffix(                                                            \
      int64_t n, int64_t channels, const T* points, int64_t batch, const int64_t* offsets, const double* lower,   \
      const double* size, const int64_t* cells, int64_t max_points, int64_t max_voxels, int64_t mean,             \
      int64_t multiplier, int64_t copy, int64_t rows, T* voxels, int32_t* coords, int32_t* num_points,            \
      int32_t* point2voxel, int64_t* dropped, int64_t* bad_row)

TENFOLD_HOST_VOXELIZE(f32, float);
TENFOLD_HOST_VOXELIZE(f64, double);
