#include "voxel_table/voxel_table.h"

#include "voxel_table/search.h"

#include <cstring>

#include "common/arena.h"
#include "common/grid.h"
#include "common/radix.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kLookupsPerTask = 8192;
constexpr int64_t kQueriesPerTask = 512;

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
  return table_layout(low, high, v, meta, bits);
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
