// Grouping points by the cell of a regular grid: contract in tenfold-core 6.4.
//
// Two steps, because the number of voxels is known only after the first: `voxel_assign` finds the voxel of
// every point, the caller allocates the outputs, `voxel_fill` writes them.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

template <class T>
struct VoxelGrid {  // axes are x, y, z
  T lower[3];
  T size[3];
  int64_t cells[3];
};

// What the first step leaves for the second. The caller provides the memory: n entries each. Key is uint32
// where narrow_keys, else uint64.
struct VoxelAssignment {
  void* voxel_key;     // Key: the cell of every voxel (CellKeys)
  int32_t* counts;     // points stored in every voxel
  int32_t* source;     // rows of the stored points; ascending within a voxel
  int32_t* place;      // their rows in (V * P), with mean their voxel; memory for n Keys; null: not wanted
  int64_t* begin;      // (batch + 1,) first voxel of every batch element
  int64_t stored;
  int64_t voxels;
  bool lexicographic;  // voxel_key holds (z * cells_y + y) * cells_x + x instead
};

template <class T>
struct VoxelAssignArgs {
  const T* points;         // (n, channels)
  int64_t n;
  int64_t channels;
  const int64_t* offsets;  // (batch + 1,) non-decreasing from 0 to n
  int64_t batch;
  VoxelGrid<T> grid;
  int64_t max_points;      // per voxel
  int64_t max_voxels;      // per batch element
  bool mean;               // place is the voxel alone
  bool sorted;             // voxels in the order of (b, z, y, x) instead of first come
  bool validate;
  uint64_t hash_multiplier;  // odd
  Parallel parallel;
  VoxelAssignment result;
  int32_t* point2voxel;    // (n,) out
  int64_t dropped[3];      // out: out of range, by the voxel cap, by the point cap
  int64_t bad_row;         // out: first row with a coordinate that is not finite, or -1
};

template <class T>
struct VoxelFillArgs {
  const T* points;
  int64_t channels;
  int64_t batch;
  VoxelGrid<T> grid;
  int64_t max_points;
  bool mean;
  VoxelAssignment assignment;
  int64_t rows;         // >= assignment.voxels: rows behind it are cleared (coords -1)
  Parallel parallel;
  T* voxels;            // (rows, max_points, channels) or, with mean, (rows, channels)
  int32_t* coords;      // (rows, 4) b z y x
  int32_t* num_points;  // (rows,)
};

template <class T>
struct VoxelBackwardArgs {
  const T* grad;               // of voxels
  const int32_t* point2voxel;  // (n,)
  int64_t n;
  int64_t channels;
  int64_t voxels;
  int64_t max_points;
  bool mean;
  T* grad_points;              // (n, channels) out
};

}  // namespace tenfold

TENFOLD_BEGIN

// The arithmetic that every device shares: a true division in the precision of the points.
template <class T>
static inline T voxel_cell(T coordinate, T lower, T size) {
  return std::floor((coordinate - lower) / size);
}

// Cells as keys. A block of 2 x 2 x 2 cells has eight consecutive keys: points that follow each other in a scan
// mostly stay in few blocks, hence in few cache lines of a table over keys.
template <class Key>
struct CellKeys {
  Key blocks_x, blocks_y, blocks_z;

  template <class T>
  explicit CellKeys(const VoxelGrid<T>& grid)
      : blocks_x(static_cast<Key>((grid.cells[0] + 1) / 2)),
        blocks_y(static_cast<Key>((grid.cells[1] + 1) / 2)),
        blocks_z(static_cast<Key>((grid.cells[2] + 1) / 2)) {}

  Key operator()(Key x, Key y, Key z) const {
    const Key block = ((z >> 1) * blocks_y + (y >> 1)) * blocks_x + (x >> 1);
    return block << 3 | (z & 1) << 2 | (y & 1) << 1 | (x & 1);
  }
};

// Number of keys: below 2^64 for fewer than 2^63 cells and 2^31 along each axis.
template <class T>
static inline uint64_t total_keys(const VoxelGrid<T>& grid) {
  const CellKeys<uint64_t> keys(grid);
  return 8 * keys.blocks_x * keys.blocks_y * keys.blocks_z;
}

// Whether keys fit 31 bits.
template <class T>
static inline bool narrow_keys(const VoxelGrid<T>& grid) {
  return total_keys(grid) < (uint64_t{1} << 31);
}

TENFOLD_END

TENFOLD_KERNEL(voxel_assign_f32, VoxelAssignArgs<float>)
TENFOLD_KERNEL(voxel_assign_f64, VoxelAssignArgs<double>)
TENFOLD_KERNEL(voxel_fill_f32, VoxelFillArgs<float>)
TENFOLD_KERNEL(voxel_fill_f64, VoxelFillArgs<double>)
TENFOLD_KERNEL(voxel_backward_f32, VoxelBackwardArgs<float>)
TENFOLD_KERNEL(voxel_backward_f64, VoxelBackwardArgs<double>)
