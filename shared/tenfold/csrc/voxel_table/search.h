// Finding cells in a voxel table: the arithmetic that every device shares.
#pragma once
#include <cstdint>

#include "voxel_table/voxel_table.h"

TENFOLD_BEGIN

// From the lowest and highest cells the extents, the bits of a key and the shift of the directory; false where there are
// 2^63 cells or more. For the host.
static inline bool table_layout(const int64_t* low, const int64_t* high, int64_t v, int64_t* meta, int& bits) {
  unsigned __int128 cells = 1;
  constexpr unsigned __int128 kLimit = static_cast<unsigned __int128>(1) << 63;
  for (int a = 0; a < 4; ++a) {
    const uint64_t less_one = static_cast<uint64_t>(high[a]) - static_cast<uint64_t>(low[a]);
    if (less_one >= (uint64_t{1} << 63) - 1) return false;
    meta[a] = low[a];
    meta[4 + a] = static_cast<int64_t>(less_one + 1);
    cells *= less_one + 1;
    if (cells >= kLimit) return false;
  }
  const uint64_t last = static_cast<uint64_t>(cells) - 1;
  bits = last == 0 ? 1 : 64 - __builtin_clzll(last);
  int64_t shift = 0;
  while (last >> shift >= static_cast<uint64_t>(2 * v)) ++shift;
  meta[8] = shift;
  return true;
}

template <class Index>
TENFOLD_HD inline int64_t key_of(const Index* cell, const int64_t* meta) {
  int64_t key = static_cast<int64_t>(cell[0]) - meta[0];
  for (int a = 1; a < 4; ++a) key = key * meta[4 + a] + (static_cast<int64_t>(cell[a]) - meta[a]);
  return key;
}

template <class Index>
TENFOLD_HD inline bool in_extents(const Index* cell, const int64_t* meta) {
  bool in = true;
  for (int a = 0; a < 4; ++a) in &= cell[a] >= meta[a] && cell[a] <= meta[a] + (meta[4 + a] - 1);
  return in;
}

// First place whose key is not below the one given, which lies in the extents.
TENFOLD_HD inline int64_t lower_place(const VoxelTableView& t, int64_t key) {
  const int64_t bucket = key >> t.meta[8];
  int64_t low = t.directory[bucket], high = t.directory[bucket + 1];
  while (high - low > 8) {
    const int64_t middle = (low + high) / 2;
    if (t.keys[middle] < key)
      low = middle + 1;
    else
      high = middle;
  }
  while (low < high && t.keys[low] < key) ++low;
  return low;
}

// Cells of one axis from which to which the window reaches inside the extents, relative to the lowest.
template <class Index>
TENFOLD_HD inline bool window(Index center, int64_t range, int64_t low, int64_t cells, int64_t& first, int64_t& last) {
  const __int128 at = static_cast<__int128>(center) - low;
  const __int128 from = at - range, to = at + range;
  if (from >= cells || to < 0) return false;
  first = from < 0 ? 0 : static_cast<int64_t>(from);
  last = to >= cells ? cells - 1 : static_cast<int64_t>(to);
  return true;
}

template <class T, class Index>
TENFOLD_HD inline int64_t query_one(const VoxelQueryArgs<T>& a, const Index* cell, const T* q, T limit, int32_t* hits) {
  const VoxelTableView& t = a.table;
  const int64_t* meta = t.meta;
  int64_t first[3], last[3];
  if (t.v == 0 || cell[0] < meta[0] || cell[0] > meta[0] + (meta[4] - 1)) return 0;
  for (int axis = 0; axis < 3; ++axis)
    if (!window(cell[1 + axis], a.range[axis], meta[1 + axis], meta[5 + axis], first[axis], last[axis])) return 0;
  int64_t n = 0;
  const int64_t plane = (static_cast<int64_t>(cell[0]) - meta[0]) * meta[5];
  for (int64_t z = first[0]; z <= last[0]; ++z) {
    for (int64_t y = first[1]; y <= last[1]; ++y) {
      const int64_t row = ((plane + z) * meta[6] + y) * meta[7];
      for (int64_t i = lower_place(t, row + first[2]); i < t.v && t.keys[i] <= row + last[2]; ++i) {
        if (i > 0 && t.keys[i] == t.keys[i - 1]) continue;  // a repeated cell counts once
        const T* p = a.xyz_vox + 3 * int64_t{t.rows[i]};
        const T dx = p[0] - q[0], dy = p[1] - q[1], dz = p[2] - q[2];
        if (!((dx * dx + dy * dy) + dz * dz <= limit)) continue;
        hits[n++] = t.rows[i];
        if (n == a.k) return n;
      }
    }
  }
  return n;
}

TENFOLD_END
