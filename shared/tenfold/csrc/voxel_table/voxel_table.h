// Sorted cell keys with a directory, look-up, and voxel query: contract in tenfold-core 6.14.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

constexpr int kTableMeta = 9;  // lowest b, z, y, x; cells along each; shift of the directory

struct VoxelTableArgs {
  const int32_t* coords32;  // (v, 4), one of the two
  const int64_t* coords64;
  int64_t v;
  bool validate;
  Parallel parallel;   // CUDA: its stream
  int64_t* keys;       // (v,) out, ascending
  int32_t* rows;       // (v,) out
  int32_t* directory;  // (2 v + 1,) out: first place whose key >> shift is at least the index
  int64_t* meta;       // (kTableMeta,) out
  int bad_what;        // out: 0 fine, 1 too many cells, 2 a repeated cell
  int64_t bad_row;     // 2: the lowest row that repeats a cell
  int64_t bad_first;   // 2: the row that it repeats
};

struct VoxelTableView {
  const int64_t* keys;
  const int32_t* rows;
  const int32_t* directory;
  const int64_t* meta;
  int64_t v;
};

struct LookupArgs {
  VoxelTableView table;
  const int32_t* coords32;  // (m, 4), one of the two
  const int64_t* coords64;
  int64_t m;
  Parallel parallel;
  int32_t* out;  // (m,)
};

template <class T>
struct VoxelQueryArgs {
  VoxelTableView table;
  const T* xyz_vox;    // (v, 3)
  const int32_t* coords32;
  const int64_t* coords64;
  const T* xyz_query;  // (m, 3)
  int64_t m;
  int64_t range[3];    // z, y, x
  double radius;
  int64_t k;
  bool validate;
  Parallel parallel;
  int32_t* idx;        // (m, k) out
  int32_t* count;      // (m,) out
  int bad_what;        // out: 0 fine, 1 xyz_vox, 2 xyz_query
  int64_t bad_row;
};

}  // namespace tenfold

TENFOLD_KERNEL(voxel_table, VoxelTableArgs)
TENFOLD_KERNEL(lookup, LookupArgs)
TENFOLD_KERNEL(voxel_query_f32, VoxelQueryArgs<float>)
TENFOLD_KERNEL(voxel_query_f64, VoxelQueryArgs<double>)
