// Voxel table: extents by integer atomics, one radix sort, the directory by boundaries between sorted keys; lookups and
// queries are a thread each, with the CPU kernel's search.
#include "voxel_table/voxel_table.h"

#include "common/device_check.h"
#include "common/device_sort.h"
#include "voxel_table/search.h"

namespace tenfold::cuda {
namespace {

using namespace device;

// Order-preserving: unsigned atomics find extremes of signed numbers.
__device__ __forceinline__ unsigned long long unsigned_order(int64_t v) {
  return static_cast<unsigned long long>(v) ^ (1ull << 63);
}

template <class Index>
struct Extremes {
  const Index* coords;
  unsigned long long* low;  // 4 lowest, then 4 highest
  __device__ void operator()(int64_t i) const {
    for (int a = 0; a < 4; ++a) {
      const unsigned long long c = unsigned_order(static_cast<int64_t>(coords[4 * i + a]));
      atomicMin(low + a, c);
      atomicMax(low + 4 + a, c);
    }
  }
};

template <class Index>
struct TableKey {
  const Index* coords;
  const int64_t* meta;
  uint64_t* key;
  __device__ void operator()(int64_t i) const { key[i] = static_cast<uint64_t>(key_of(coords + 4 * i, meta)); }
};

struct TakeSorted {
  Sorted<uint64_t> sorted;
  VoxelTableArgs a;
  __device__ void operator()(int64_t i) const {  // i <= v
    const int64_t shift = a.meta[8];
    const int64_t from = i == 0 ? 0 : static_cast<int64_t>(sorted.key[i - 1] >> shift) + 1;
    const int64_t to = i == a.v ? 2 * a.v : static_cast<int64_t>(sorted.key[i] >> shift);
    for (int64_t bucket = from; bucket <= to; ++bucket) a.directory[bucket] = static_cast<int32_t>(i);
    if (i == a.v) return;
    a.keys[i] = static_cast<int64_t>(sorted.key[i]);
    a.rows[i] = sorted.row[i];
  }
};

// Rows that repeat a cell; the lowest wins.
struct Repeated {
  Sorted<uint64_t> sorted;
  unsigned long long* first;  // row << 32 | the row that it repeats
  __device__ void operator()(int64_t i) const {
    if (i == 0 || sorted.key[i] != sorted.key[i - 1]) return;
    atomicMin(first, static_cast<unsigned long long>(sorted.row[i]) << 32 | static_cast<unsigned>(sorted.row[i - 1]));
  }
};

template <class Index>
void build(VoxelTableArgs& a, const Stream& stream, const Index* coords) {
  a.bad_what = 0;
  fill_device(stream, a.meta, 0, kTableMeta * 8);
  if (a.v == 0) return fill_device(stream, a.directory, 0, 4);
  auto* extremes = stream.scratch<unsigned long long>(8);
  fill_device(stream, extremes, 0xff, 32);
  fill_device(stream, extremes + 4, 0, 32);
  each("voxel_extremes", stream, a.v, Extremes<Index>{coords, extremes});
  // The key space decides how keys are made: the one number that the host must know.
  unsigned long long found[8];
  copy_to_host(stream, found, extremes, sizeof found);
  int64_t low[4], high[4], meta[kTableMeta] = {};
  for (int k = 0; k < 4; ++k) {
    low[k] = static_cast<int64_t>(found[k] ^ (1ull << 63));
    high[k] = static_cast<int64_t>(found[4 + k] ^ (1ull << 63));
  }
  int bits = 0;
  if (!table_layout(low, high, a.v, meta, bits)) {
    a.bad_what = 1;
    return;
  }
  copy_to_device(stream, a.meta, meta, sizeof meta);
  auto* key = stream.scratch<uint64_t>(a.v);
  each("voxel_key", stream, a.v, TableKey<Index>{coords, a.meta, key});
  const Sorted<uint64_t> sorted = radix_sort<uint64_t>(stream, key, nullptr, a.v, bits);
  each("voxel_directory", stream, a.v + 1, TakeSorted{sorted, a});
  if (!a.validate) return;
  auto* first = stream.scratch<unsigned long long>(1);
  fill_device(stream, first, 0xff, 8);
  each("voxel_repeated", stream, a.v, Repeated{sorted, first});
  const unsigned long long bad = read_back(stream, first);
  if (bad == ~0ull) return;
  a.bad_what = 2;
  a.bad_row = static_cast<int64_t>(bad >> 32);
  a.bad_first = static_cast<int64_t>(bad & 0xffffffffu);
}

template <class Index>
struct Find {
  LookupArgs a;
  const Index* coords;
  __device__ void operator()(int64_t i) const {
    const VoxelTableView& t = a.table;
    int32_t row = -1;
    if (t.v > 0 && in_extents(coords + 4 * i, t.meta)) {
      const int64_t key = key_of(coords + 4 * i, t.meta);
      const int64_t place = lower_place(t, key);
      if (place < t.v && t.keys[place] == key) row = t.rows[place];
    }
    a.out[i] = row;
  }
};

template <class T, class Index>
struct QueryOne {
  VoxelQueryArgs<T> a;
  const Index* coords;
  T limit;
  __device__ void operator()(int64_t i) const {
    int32_t* hits = a.idx + i * a.k;
    const int64_t n = query_one(a, coords + 4 * i, a.xyz_query + 3 * i, limit, hits);
    const int32_t first = n > 0 ? hits[0] : 0;
    for (int64_t j = n; j < a.k; ++j) hits[j] = first;
    a.count[i] = static_cast<int32_t>(n);
  }
};

template <class T>
void query(VoxelQueryArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  a.bad_what = 0;
  if (a.validate) {
    a.bad_row = first_not_finite(stream, a.xyz_vox, a.table.v, 3, 3);
    a.bad_what = a.bad_row >= 0 ? 1 : 0;
    if (a.bad_what == 0) {
      a.bad_row = first_not_finite(stream, a.xyz_query, a.m, 3, 3);
      a.bad_what = a.bad_row >= 0 ? 2 : 0;
    }
    if (a.bad_what != 0) return;
  }
  const T radius = static_cast<T>(a.radius);
  if (a.coords32 != nullptr)
    each("voxel_query", stream, a.m, QueryOne<T, int32_t>{a, a.coords32, radius * radius});
  else
    each("voxel_query", stream, a.m, QueryOne<T, int64_t>{a, a.coords64, radius * radius});
}

}  // namespace

void voxel_table(VoxelTableArgs& args) {
  if (args.coords32 != nullptr)
    build(args, *args.parallel.stream, args.coords32);
  else
    build(args, *args.parallel.stream, args.coords64);
}

void lookup(LookupArgs& args) {
  if (args.coords32 != nullptr)
    each("lookup", *args.parallel.stream, args.m, Find<int32_t>{args, args.coords32});
  else
    each("lookup", *args.parallel.stream, args.m, Find<int64_t>{args, args.coords64});
}

void voxel_query_f32(VoxelQueryArgs<float>& args) { query(args); }
void voxel_query_f64(VoxelQueryArgs<double>& args) { query(args); }

}  // namespace tenfold::cuda
