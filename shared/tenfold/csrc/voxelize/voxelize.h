// Grouping points by the cell of a regular grid: contract in tenfold-core 6.4.
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

template <class T>
struct VoxelArgs {
  const T* points;           // (n, channels)
  int64_t n;
  int64_t channels;
  const int64_t* offsets;    // (batch + 1,) non-decreasing from 0 to n
  int64_t batch;
  VoxelGrid<T> grid;
  int64_t max_points;        // per voxel
  int64_t max_voxels;        // per batch element
  bool mean;
  bool copy;                 // voxels are wanted
  bool sorted;               // voxels in the order of (b, z, y, x) instead of first come; without caps only
  bool validate;
  uint64_t hash_multiplier;  // odd
  Parallel parallel;
  int32_t* point2voxel;      // (n,) out
  int64_t dropped[3];        // out: out of range, by the voxel cap, by the point cap
  int64_t bad_row;           // out: first row with a coordinate that is not finite, or -1: nothing else is written
  int64_t count;             // out: voxels
  int64_t* dropped_there;    // CUDA: where `dropped` and `count` go on the device, if the host need not know them
  int32_t* count_there;
  // Called once `count` is known; sets what follows. It may throw.
  void (*allocate)(VoxelArgs& args, void* context);
  void* context;
  // Of the outputs: those behind `count` are cleared (coords -1). Without copy they may be fewer than `count`: voxels
  // from `rows` on are left out, and their points lie in none.
  int64_t rows;
  T* voxels;                 // (rows, max_points, channels) or, with mean, (rows, channels); with copy alone
  int32_t* coords;           // (rows, 4) b z y x
  int32_t* num_points;       // (rows,)
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
  Parallel parallel;           // CUDA: its stream
  T* grad_points;              // (n, channels) out
};

}  // namespace tenfold

TENFOLD_BEGIN

// The arithmetic that every device shares: a true division in the precision of the points.
template <class T>
TENFOLD_HD static inline T voxel_cell(T coordinate, T lower, T size) {
  return std::floor((coordinate - lower) / size);
}

// Cells as keys. A block of 2 x 2 x 2 cells has eight consecutive keys: points that follow each other in a scan
// mostly stay in few blocks, hence in few cache lines of a table over keys. Lexicographic keys sort as (z, y, x).
template <class Key>
struct CellKeys {
  int shift;  // cells of a block along each axis: 1 << shift
  Key blocks_x, blocks_y, blocks_z;

  template <class T>
  CellKeys(const VoxelGrid<T>& grid, bool lexicographic)
      : shift(lexicographic ? 0 : 1),
        blocks_x(static_cast<Key>((grid.cells[0] + shift) >> shift)),
        blocks_y(static_cast<Key>((grid.cells[1] + shift) >> shift)),
        blocks_z(static_cast<Key>((grid.cells[2] + shift) >> shift)) {}

  Key operator()(Key x, Key y, Key z) const {
    const Key block = ((z >> shift) * blocks_y + (y >> shift)) * blocks_x + (x >> shift);
    const Key inner = (z & 1) << 2 | (y & 1) << 1 | (x & 1);
    return block << (3 * shift) | (inner & static_cast<Key>(7 * shift));
  }
};

// Number of keys: below 2^64 for fewer than 2^63 cells and 2^31 along each axis.
template <class T>
static inline uint64_t total_keys(const VoxelGrid<T>& grid) {
  const CellKeys<uint64_t> keys(grid, false);
  return 8 * keys.blocks_x * keys.blocks_y * keys.blocks_z;
}

// Whether keys fit 31 bits.
template <class T>
static inline bool narrow_keys(const VoxelGrid<T>& grid) {
  return total_keys(grid) < (uint64_t{1} << 31);
}

TENFOLD_END

TENFOLD_KERNEL(voxelize_f32, VoxelArgs<float>)
TENFOLD_KERNEL(voxelize_f64, VoxelArgs<double>)
TENFOLD_KERNEL(voxel_backward_f32, VoxelBackwardArgs<float>)
TENFOLD_KERNEL(voxel_backward_f64, VoxelBackwardArgs<double>)
