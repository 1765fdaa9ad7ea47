// Voxelisation for data loaders: the two kernels of the torch op, run serially. Between them the caller allocates
// the outputs, whose number of rows only the first one knows.
#pragma once
#include "host/host.h"

// points (n, channels); offsets (batch + 1,); lower, size and cells along x, y, z. multiplier: odd. Work buffers
// that the second step reads: key (n,), counts (n,), source (n,), place (2n,), begin (batch + 1,), totals (2,).
// Out: point2voxel (n,), dropped (3,). Returns the number of voxels, or kRefused where a point is not finite;
// totals[0] is then its row.
#define TENFOLD_HOST_VOXEL_ASSIGN(suffix, T)                                                                      \
  TENFOLD_HOST int64_t tenfold_host_voxel_assign_##suffix(                                                        \
      int64_t n, int64_t channels, const T* points, int64_t batch, const int64_t* offsets, const double* lower,   \
      const double* size, const int64_t* cells, int64_t max_points, int64_t max_voxels, int64_t mean,             \
      int64_t multiplier, uint64_t* key, int32_t* counts, int32_t* source, int32_t* place, int64_t* begin,        \
      int64_t* totals, int32_t* point2voxel, int64_t* dropped)

// Out, with one row per voxel: voxels (V, max_points, channels) or with mean (V, channels), coords (V, 4),
// num_points (V,). Returns 0.
#define TENFOLD_HOST_VOXEL_FILL(suffix, T)                                                                        \
  TENFOLD_HOST int64_t tenfold_host_voxel_fill_##suffix(                                                          \
      int64_t channels, const T* points, int64_t batch, const double* lower, const double* size,                  \
      const int64_t* cells, int64_t max_points, int64_t mean, uint64_t* key, int32_t* counts, int32_t* source,    \
      int32_t* place, int64_t* begin, const int64_t* totals, T* voxels, int32_t* coords, int32_t* num_points)

TENFOLD_HOST_VOXEL_ASSIGN(f32, float);
TENFOLD_HOST_VOXEL_ASSIGN(f64, double);
TENFOLD_HOST_VOXEL_FILL(f32, float);
TENFOLD_HOST_VOXEL_FILL(f64, double);
