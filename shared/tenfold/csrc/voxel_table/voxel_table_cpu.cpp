#include "voxel_table/voxel_table.h"

#include <cstring>

#include "common/arena.h"
#include "common/grid.h"
#include "common/radix.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kLookupsPerTask = 8192;
constexpr int64_t kQueriesPerTask = 512;

template <class Index>
int64_t key_of(const Index* cell, const int64_t* meta) {
  int64_t key = static_cast<int64_t>(cell[0]) - meta[0];
  for (int a = 1; a < 4; ++a) key = key * meta[4 + a] + (static_cast<int64_t>(cell[a]) - meta[a]);
  return key;
}

template <class Index>
bool in_extents(const Index* cell, const int64_t* meta) {
  bool in = true;
  for (int a = 0; a < 4; ++a) in &= cell[a] >= meta[a] && cell[a] <= meta[a] + (meta[4 + a] - 1);
  return in;
}

// Writes the extents; false where they hold 2^63 cells or more.
template <class Index>
bool find_extents(const Index* coords, int64_t v, int64_t* meta, int& bits) {
  int64_t low[4], high[4];
  for (int a = 0; a < 4; ++a) low[a] = high[a] = coords[a];
  for (int64_t i = 1; i < v; ++i) {
    for (int a = 0; a < 4; ++a) {
      const int64_t c = coords[4 * i + a];
      low[a] = c < low[a] ? c : low[a];
      high[a] = c > high[a] ? c : high[a];
    }
  }
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

void find_repeated(VoxelTableArgs& a) {
  for (int64_t i = 1; i < a.v; ++i) {
    if (a.keys[i] != a.keys[i - 1]) continue;
    if (a.bad_what == 2 && a.bad_row <= a.rows[i]) continue;
    a.bad_what = 2;
    a.bad_row = a.rows[i];
    a.bad_first = a.rows[i - 1];
  }
}

template <class Index>
void build(VoxelTableArgs& a, const Index* coords) {
  a.bad_what = 0;
  std::memset(a.meta, 0, kTableMeta * sizeof(int64_t));
  if (a.v == 0) {
    a.directory[0] = 0;
    return;
  }
  int bits = 0;
  if (!find_extents(coords, a.v, a.meta, bits)) {
    a.bad_what = 1;
    return;
  }
  bool sorted = true;
  int64_t before = -1;
  for (int64_t i = 0; i < a.v; ++i) {
    a.keys[i] = key_of(coords + 4 * i, a.meta);
    a.rows[i] = static_cast<int32_t>(i);
    sorted &= a.keys[i] >= before;
    before = a.keys[i];
  }
  if (!sorted) radix_sort(reinterpret_cast<uint64_t*>(a.keys), a.rows, a.v, bits);
  if (a.validate) find_repeated(a);
  const int64_t shift = a.meta[8];
  int64_t bucket = 0;
  for (int64_t i = 0; i < a.v; ++i)
    for (const int64_t last = a.keys[i] >> shift; bucket <= last; ++bucket) a.directory[bucket] = static_cast<int32_t>(i);
  for (; bucket <= 2 * a.v; ++bucket) a.directory[bucket] = static_cast<int32_t>(a.v);
}

// First place whose key is not below the one given, which lies in the extents.
int64_t lower_place(const VoxelTableView& t, int64_t key) {
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

template <class Index>
void look_up(const LookupArgs& a, const Index* coords) {
  const VoxelTableView& t = a.table;
  parallel_ranges(a.parallel, a.m, kLookupsPerTask, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      a.out[i] = -1;
      if (t.v == 0 || !in_extents(coords + 4 * i, t.meta)) continue;
      const int64_t key = key_of(coords + 4 * i, t.meta);
      const int64_t place = lower_place(t, key);
      if (place < t.v && t.keys[place] == key) a.out[i] = t.rows[place];
    }
  });
}

// Cells of one axis from which to which the window reaches inside the extents, relative to the lowest.
template <class Index>
bool window(Index center, int64_t range, int64_t low, int64_t cells, int64_t& first, int64_t& last) {
  const __int128 at = static_cast<__int128>(center) - low;
  const __int128 from = at - range, to = at + range;
  if (from >= cells || to < 0) return false;
  first = from < 0 ? 0 : static_cast<int64_t>(from);
  last = to >= cells ? cells - 1 : static_cast<int64_t>(to);
  return true;
}

template <class T, class Index>
int64_t query_one(const VoxelQueryArgs<T>& a, const Index* cell, const T* q, T limit, int32_t* hits) {
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

template <class T, class Index>
void query_all(const VoxelQueryArgs<T>& a, const Index* coords) {
  const T radius = static_cast<T>(a.radius);
  const T limit = radius * radius;
  parallel_ranges(a.parallel, a.m, kQueriesPerTask, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int32_t* hits = a.idx + i * a.k;
      const int64_t n = query_one(a, coords + 4 * i, a.xyz_query + 3 * i, limit, hits);
      for (int64_t j = n; j < a.k; ++j) hits[j] = n > 0 ? hits[0] : 0;
      a.count[i] = static_cast<int32_t>(n);
    }
  });
}

template <class T>
void query(VoxelQueryArgs<T>& a) {
  a.bad_what = 0;
  if (a.validate) {
    a.bad_row = first_bad_row(a.xyz_vox, a.table.v);
    a.bad_what = a.bad_row >= 0 ? 1 : 0;
    if (a.bad_what == 0) {
      a.bad_row = first_bad_row(a.xyz_query, a.m);
      a.bad_what = a.bad_row >= 0 ? 2 : 0;
    }
    if (a.bad_what != 0) return;
  }
  if (a.coords32 != nullptr)
    query_all(a, a.coords32);
  else
    query_all(a, a.coords64);
}

}  // namespace

void voxel_table(VoxelTableArgs& args) {
  if (args.coords32 != nullptr)
    build(args, args.coords32);
  else
    build(args, args.coords64);
}

void lookup(LookupArgs& args) {
  if (args.coords32 != nullptr)
    look_up(args, args.coords32);
  else
    look_up(args, args.coords64);
}

void voxel_query_f32(VoxelQueryArgs<float>& args) { query(args); }
void voxel_query_f64(VoxelQueryArgs<double>& args) { query(args); }

TENFOLD_END
