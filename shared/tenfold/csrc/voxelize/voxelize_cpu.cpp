#include "voxelize/voxelize.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "common/arena.h"
#include "common/radix.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int kBlock = 256;  // points quantised at a time: their coordinates stay in the first-level cache
constexpr int64_t kAhead = 16;

// ---- points to keys ------------------------------------------------------------------------------------

typedef float float4 __attribute__((vector_size(16)));
typedef int32_t int4 __attribute__((vector_size(16)));

// x, y and z of `count` rows, side by side. Four rows are transposed at a time where they can be read as four
// columns.
inline void split_rows(const float* points, int64_t channels, int count, float* x, float* y, float* z) {
  int i = 0;
  for (; channels >= 4 && i + 4 <= count; i += 4) {
    float4 row[4];
    for (int k = 0; k < 4; ++k) std::memcpy(&row[k], points + (i + k) * channels, sizeof row[k]);
    const float4 xy01 = __builtin_shuffle(row[0], row[1], int4{0, 4, 1, 5});
    const float4 xy23 = __builtin_shuffle(row[2], row[3], int4{0, 4, 1, 5});
    const float4 z01 = __builtin_shuffle(row[0], row[1], int4{2, 6, 2, 6});
    const float4 z23 = __builtin_shuffle(row[2], row[3], int4{2, 6, 2, 6});
    const float4 x4 = __builtin_shuffle(xy01, xy23, int4{0, 1, 4, 5});
    const float4 y4 = __builtin_shuffle(xy01, xy23, int4{2, 3, 6, 7});
    const float4 z4 = __builtin_shuffle(z01, z23, int4{0, 1, 4, 5});
    std::memcpy(x + i, &x4, sizeof x4);
    std::memcpy(y + i, &y4, sizeof y4);
    std::memcpy(z + i, &z4, sizeof z4);
  }
  for (; i < count; ++i) {
    x[i] = points[i * channels];
    y[i] = points[i * channels + 1];
    z[i] = points[i * channels + 2];
  }
}

inline void split_rows(const double* points, int64_t channels, int count, double* x, double* y, double* z) {
  for (int i = 0; i < count; ++i) {
    x[i] = points[i * channels];
    y[i] = points[i * channels + 1];
    z[i] = points[i * channels + 2];
  }
}

inline int keep_inside(const uint32_t* key, const int32_t* inside, int count, int32_t row, uint32_t* keys,
                       int32_t* rows) {
  int m = 0;
  const vint lanes = viota();
  for (int i = 0; i < count; i += kLanes) {
    const lane_mask take = vlt(vload(inside + i), vset(0)) & first_lanes(count - i);
    vcompress(rows + m, lanes + (row + i), take);
    m += vcompress(reinterpret_cast<int32_t*>(keys) + m, vload(reinterpret_cast<const int32_t*>(key) + i), take);
  }
  return m;
}

inline int keep_inside(const uint64_t* key, const int32_t* inside, int count, int32_t row, uint64_t* keys,
                       int32_t* rows) {
  int m = 0;
  for (int i = 0; i < count; ++i) {
    keys[m] = key[i];
    rows[m] = row + i;
    m -= inside[i];
  }
  return m;
}

// Writes key and row of the points inside the grid, in order, and returns their number. The output has room for
// kBlock and a vector more.
template <class T, class Key>
int quantise_block(const T* points, int64_t channels, int64_t row, int count, const VoxelGrid<T>& grid, Key* keys,
                   int32_t* rows) {
  T x[kBlock], y[kBlock], z[kBlock];
  split_rows(points + row * channels, channels, count, x, y, z);
  // A number of cells that is no T rounds to one: the comparison stays right, because no T lies between.
  const T end_x = static_cast<T>(grid.cells[0]), end_y = static_cast<T>(grid.cells[1]),
          end_z = static_cast<T>(grid.cells[2]);
  const CellKeys<Key> key_of(grid);
  Key key[kBlock];
  int32_t inside[kBlock];
  for (int i = 0; i < count; ++i) {
    const T cx = voxel_cell(x[i], grid.lower[0], grid.size[0]);
    const T cy = voxel_cell(y[i], grid.lower[1], grid.size[1]);
    const T cz = voxel_cell(z[i], grid.lower[2], grid.size[2]);
    const bool in = (cx >= 0) & (cx < end_x) & (cy >= 0) & (cy < end_y) & (cz >= 0) & (cz < end_z);
    const Key kx = static_cast<Key>(static_cast<int32_t>(in ? cx : 0));
    const Key ky = static_cast<Key>(static_cast<int32_t>(in ? cy : 0));
    const Key kz = static_cast<Key>(static_cast<int32_t>(in ? cz : 0));
    key[i] = key_of(kx, ky, kz);
    inside[i] = -static_cast<int32_t>(in);
  }
  return keep_inside(key, inside, count, static_cast<int32_t>(row), keys, rows);
}

// The first row in [begin, end) with a coordinate that is not finite, or -1.
template <class T>
int64_t first_not_finite(const T* points, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const T* p = points + i * channels;
    if (!std::isfinite(p[0]) || !std::isfinite(p[1]) || !std::isfinite(p[2])) return i;
  }
  return -1;
}

template <class T, class Key>
int64_t quantise(VoxelAssignArgs<T>& a, int64_t begin, int64_t end, Key* keys, int32_t* rows) {
  Key block_keys[kBlock + kLanes];
  int32_t block_rows[kBlock + kLanes];
  int64_t m = 0;
  for (int64_t row = begin; row < end; row += kBlock) {
    const int count = static_cast<int>(end - row < kBlock ? end - row : kBlock);
    const int found = quantise_block(a.points, a.channels, row, count, a.grid, block_keys, block_rows);
    if (a.validate && found < count && a.bad_row < 0)
      a.bad_row = first_not_finite(a.points, a.channels, row, row + count);
    std::memcpy(keys + m, block_keys, static_cast<size_t>(found) * sizeof(Key));
    std::memcpy(rows + m, block_rows, static_cast<size_t>(found) * sizeof(int32_t));
    m += found;
  }
  return m;
}

// ---- keys to voxels ------------------------------------------------------------------------------------
// A table holds the voxel of every key seen. insert() returns the key's voxel, which is `next` when the key is
// new; find() returns -1 for a key it does not hold. Neither branches on new or known: that is unpredictable.

// Direct: one entry per cell, for grids that are small beside the cloud.
struct DenseTable {
  int32_t* voxel;

  void prefetch_key(uint32_t key) const { prefetch_write(voxel + key); }
  int32_t insert(uint32_t key, int32_t next) {
    const int32_t found = voxel[key];
    return voxel[key] = found < 0 ? next : found;
  }
  int32_t find(uint32_t key) const { return voxel[key]; }
};

// Multiplicative hash of the block to any number of lines of eight slots, one slot for each of its cells.
struct HashPlace {
  uint64_t multiplier;
  uint64_t lines;

  int64_t slots() const { return static_cast<int64_t>(8 * lines); }
  template <class Key>
  int64_t operator()(Key key) const {
    const uint64_t hash = ((static_cast<uint64_t>(key) >> 3) * multiplier) >> 32;
    return static_cast<int64_t>((hash * lines >> 32) << 3 | (key & 7));
  }
};

// Load at most one half, and one quarter where a cap on voxels keeps the table small. At least one slot stays
// free, which ends every probe.
HashPlace hash_place(uint64_t multiplier, int64_t points, int64_t voxels) {
  const int64_t lines = points / 4 < voxels / 2 ? points / 4 : voxels / 2;
  return {multiplier, static_cast<uint64_t>(lines + 1)};
}

// Open addressing with key and voxel side by side.
struct NarrowTable {
  struct Slot {
    uint32_t key;
    int32_t voxel;
  };
  static constexpr uint32_t kFree = ~uint32_t{0};
  Slot* slot;
  HashPlace place;

  int64_t probe(uint32_t key) const {
    int64_t i = place(key);
    while ((slot[i].key != key) & (slot[i].key != kFree))  // one branch, not two
      if (++i == place.slots()) i = 0;
    return i;
  }
  void prefetch_key(uint32_t key) const { prefetch_write(slot + place(key)); }
  int32_t insert(uint32_t key, int32_t next) {
    Slot& s = slot[probe(key)];
    const int32_t voxel = s.key == key ? s.voxel : next;
    s = {key, voxel};
    return voxel;
  }
  int32_t find(uint32_t key) const {
    const Slot& s = slot[probe(key)];
    return s.key == key ? s.voxel : -1;
  }
};

// Slots name the voxel alone: its key is looked up, which keeps 64-bit keys within the scratch bound.
struct WideTable {
  int32_t* voxel;
  const uint64_t* voxel_key;
  HashPlace place;

  int64_t probe(uint64_t key) const {
    int64_t i = place(key);
    while (voxel[i] >= 0 && voxel_key[voxel[i]] != key)
      if (++i == place.slots()) i = 0;
    return i;
  }
  void prefetch_key(uint64_t key) const { prefetch_write(voxel + place(key)); }
  int32_t insert(uint64_t key, int32_t next) {
    int32_t& v = voxel[probe(key)];
    return v = v < 0 ? next : v;
  }
  int32_t find(uint64_t key) const { return voxel[probe(key)]; }
};

template <class Key>
struct Numbering {
  const Key* keys;      // of the points inside the grid
  const int32_t* rows;  // theirs
  int64_t m;
  int64_t first;        // voxels before this element
  int64_t limit;        // and at its end, at most
  int64_t max_points;
  bool mean;
  int32_t* point2voxel;
};

// Numbers voxels in the order of their first point and lists the points they store.
template <class Table, class Key>
void number_voxels(Table table, const Numbering<Key>& a, VoxelAssignment& result) {
  Key* voxel_key = static_cast<Key*>(result.voxel_key);
  int64_t next = a.first;
  int64_t stored = result.stored;
  const uint32_t pitch = a.mean ? 1u : static_cast<uint32_t>(a.max_points);
  auto add = [&](int32_t row, int32_t voxel) {
    const int32_t rank = result.counts[voxel]++;
    a.point2voxel[row] = voxel;
    result.source[stored] = row;
    const uint32_t place = static_cast<uint32_t>(voxel) * pitch + (a.mean ? 0u : static_cast<uint32_t>(rank));
    if (result.place != nullptr) std::memcpy(result.place + stored, &place, sizeof place);  // memory typed Key
    stored += rank < a.max_points;
  };
  int64_t j = 0;
  for (; j < a.m && next < a.limit; ++j) {
    if (j + kAhead < a.m) table.prefetch_key(a.keys[j + kAhead]);
    const int32_t row = a.rows[j];
    voxel_key[next] = a.keys[j];
    result.counts[next] = 0;
    const int32_t voxel = table.insert(a.keys[j], static_cast<int32_t>(next));
    next += voxel == next;
    add(row, voxel);
  }
  for (; j < a.m; ++j) {  // no voxel may be opened any more
    if (j + kAhead < a.m) table.prefetch_key(a.keys[j + kAhead]);
    const int32_t row = a.rows[j];
    const int32_t voxel = table.find(a.keys[j]);
    if (voxel >= 0) add(row, voxel);
  }
  result.voxels = next;
  result.stored = stored;
}

void number_with_table(const Numbering<uint32_t>& a, uint64_t keys, int64_t n, uint64_t multiplier,
                       VoxelAssignment& result) {
  Scratch scratch;
  if (keys <= static_cast<uint64_t>(4 * n)) {
    int32_t* voxel = scratch.take<int32_t>(static_cast<int64_t>(keys));
    std::memset(voxel, 0xff, keys * sizeof(int32_t));
    return number_voxels(DenseTable{voxel}, a, result);
  }
  const HashPlace place = hash_place(multiplier, a.m, a.limit - a.first);
  auto* slot = scratch.take<NarrowTable::Slot>(place.slots());
  std::memset(static_cast<void*>(slot), 0xff, static_cast<size_t>(place.slots()) * sizeof(NarrowTable::Slot));
  number_voxels(NarrowTable{slot, place}, a, result);
}

void number_with_table(const Numbering<uint64_t>& a, uint64_t, int64_t, uint64_t multiplier,
                       VoxelAssignment& result) {
  Scratch scratch;
  const HashPlace place = hash_place(multiplier, a.m, a.limit - a.first);
  int32_t* voxel = scratch.take<int32_t>(place.slots());
  std::memset(voxel, 0xff, static_cast<size_t>(place.slots()) * sizeof(int32_t));
  number_voxels(WideTable{voxel, static_cast<const uint64_t*>(result.voxel_key), place}, a, result);
}

// ---- keys to cells -------------------------------------------------------------------------------------

// Division by one number many times. 31-bit keys go through double, which is off by one at most and vectorises.
struct NarrowDivider {
  uint32_t divisor;
  double inverse;
  explicit NarrowDivider(uint64_t d) : divisor(static_cast<uint32_t>(d)), inverse(1.0 / static_cast<double>(d)) {}
  uint32_t quotient(uint32_t key) const {
    const int32_t q = static_cast<int32_t>(static_cast<double>(static_cast<int32_t>(key)) * inverse);
    const int32_t rest = static_cast<int32_t>(key) - q * static_cast<int32_t>(divisor);
    return static_cast<uint32_t>(q - (rest < 0) + (rest >= static_cast<int32_t>(divisor)));
  }
};
struct WideDivider {
  uint64_t divisor;
  explicit WideDivider(uint64_t d) : divisor(d) {}
  uint64_t quotient(uint64_t key) const { return key / divisor; }
};

template <class Key>
struct CellDecoder {
  using Divider = std::conditional_t<sizeof(Key) == 4, NarrowDivider, WideDivider>;
  Divider x, y;
  int shift;  // cells of a block along each axis: 1 << shift

  template <class T>
  CellDecoder(const VoxelGrid<T>& grid, bool lexicographic)
      : x(lexicographic ? static_cast<uint64_t>(grid.cells[0]) : CellKeys<uint64_t>(grid).blocks_x),
        y(lexicographic ? static_cast<uint64_t>(grid.cells[1]) : CellKeys<uint64_t>(grid).blocks_y),
        shift(lexicographic ? 0 : 1) {}

  void operator()(Key key, Key cell[3]) const {
    const Key block = key >> (3 * shift);
    const Key yz = x.quotient(block);
    const Key z = y.quotient(yz);
    const Key inner = shift ? key & 7 : 0;
    cell[0] = (block - yz * static_cast<Key>(x.divisor)) << shift | (inner & 1);
    cell[1] = (yz - z * static_cast<Key>(y.divisor)) << shift | (inner >> 1 & 1);
    cell[2] = z << shift | inner >> 2;
  }
};

int bit_width(uint64_t value) { return value == 0 ? 1 : 64 - __builtin_clzll(value); }

// Replaces keys by ones that sort as (z, y, x).
template <class Key, class T>
void make_lexicographic(const VoxelGrid<T>& grid, Key* keys, int64_t count) {
  const CellDecoder<Key> decode(grid, false);
  const Key nx = static_cast<Key>(grid.cells[0]), ny = static_cast<Key>(grid.cells[1]);
  for (int64_t v = 0; v < count; ++v) {
    Key cell[3];
    decode(keys[v], cell);
    keys[v] = (cell[2] * ny + cell[1]) * nx + cell[0];
  }
}

// Renumbers the voxels from `first` on, those of the rows listed from `stored` on, in the order of (z, y, x).
template <class Key, class T>
void sort_voxels(int64_t first, int64_t stored, const VoxelGrid<T>& grid, int32_t* point2voxel,
                 VoxelAssignment& result) {
  const int64_t count = result.voxels - first;
  const int64_t cells = grid.cells[0] * grid.cells[1] * grid.cells[2];
  Key* keys = static_cast<Key*>(result.voxel_key) + first;
  make_lexicographic(grid, keys, count);
  Scratch scratch;
  int32_t* old = scratch.take<int32_t>(count);
  for (int64_t v = 0; v < count; ++v) old[v] = static_cast<int32_t>(v);
  radix_sort(keys, old, count, bit_width(static_cast<uint64_t>(cells - 1)));
  int32_t* fresh = scratch.take<int32_t>(count);
  int32_t* counts = result.counts + first;
  int32_t* sorted_counts = scratch.take<int32_t>(count);
  for (int64_t v = 0; v < count; ++v) {
    fresh[old[v]] = static_cast<int32_t>(first + v);
    sorted_counts[v] = counts[old[v]];
  }
  std::memcpy(counts, sorted_counts, static_cast<size_t>(count) * sizeof(int32_t));
  for (; stored < result.stored; ++stored) {
    int32_t& voxel = point2voxel[result.source[stored]];
    voxel = fresh[voxel - first];
  }
}

template <class T, class Key>
int64_t assign_element(VoxelAssignArgs<T>& a, int64_t begin, int64_t end) {
  VoxelAssignment& r = a.result;
  Scratch scratch;
  // The lists of this element start where its keys and rows were: writing never overtakes reading.
  Key* keys = r.place == nullptr ? scratch.take<Key>(end - begin)
                                 : static_cast<Key*>(static_cast<void*>(r.place)) + r.stored;
  int32_t* rows = r.source + r.stored;
  const int64_t m = quantise(a, begin, end, keys, rows);
  const int64_t limit = r.voxels + (a.max_voxels < m ? a.max_voxels : m);
  const Numbering<Key> numbering{keys, rows, m, r.voxels, limit, a.max_points, a.mean, a.point2voxel};
  number_with_table(numbering, total_keys(a.grid), end - begin, a.hash_multiplier, r);
  return m;
}

template <class T, class Key>
void assign(VoxelAssignArgs<T>& a) {
  VoxelAssignment& r = a.result;
  r.lexicographic = a.sorted;
  std::memset(a.point2voxel, 0xff, static_cast<size_t>(a.n) * sizeof(int32_t));
  int64_t inside = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    r.begin[b] = r.voxels;
    const int64_t stored = r.stored;
    inside += assign_element<T, Key>(a, a.offsets[b], a.offsets[b + 1]);
    if (a.sorted) sort_voxels<Key>(r.begin[b], stored, a.grid, a.point2voxel, r);
  }
  r.begin[a.batch] = r.voxels;
  int64_t in_voxels = 0;
  for (int64_t v = 0; v < r.voxels; ++v) {
    in_voxels += r.counts[v];
    r.counts[v] = r.counts[v] < a.max_points ? r.counts[v] : static_cast<int32_t>(a.max_points);
  }
  a.dropped[0] = a.n - inside;
  a.dropped[1] = inside - in_voxels;
  a.dropped[2] = in_voxels - r.stored;
}

template <class T>
void assign_any(VoxelAssignArgs<T>& a) {
  a.bad_row = -1;
  a.result.voxels = 0;
  a.result.stored = 0;
  if (narrow_keys(a.grid))
    assign<T, uint32_t>(a);
  else
    assign<T, uint64_t>(a);
}

// ---- outputs -------------------------------------------------------------------------------------------

// kChannels = 0: any number.
template <int kChannels, class T>
void copy_rows(const VoxelFillArgs<T>& a, int64_t total) {
  constexpr int64_t kZeroed = 2048;  // cleared just ahead of the rows that open voxels, while still in cache
  const VoxelAssignment& r = a.assignment;
  const int64_t channels = kChannels ? kChannels : a.channels;
  int64_t cleared = 0;
  for (int64_t s = 0; s < r.stored; ++s) {
    if (s + kAhead < r.stored) prefetch_write(a.voxels + r.place[s + kAhead] * channels);
    const T* from = a.points + r.source[s] * channels;
    const int64_t at = r.place[s] * channels;
    while (at + channels > cleared) {
      const int64_t step = total - cleared < kZeroed ? total - cleared : kZeroed;
      std::memset(a.voxels + cleared, 0, static_cast<size_t>(step) * sizeof(T));
      cleared += step;
    }
    T* to = a.voxels + at;
    if (a.mean) {
      for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
    } else {
      std::memcpy(to, from, static_cast<size_t>(channels) * sizeof(T));
    }
  }
  std::memset(a.voxels + cleared, 0, static_cast<size_t>(total - cleared) * sizeof(T));
}

template <class T, class Key>
void write_coords(const VoxelFillArgs<T>& a) {
  const VoxelAssignment& r = a.assignment;
  const Key* keys = static_cast<const Key*>(r.voxel_key);
  const CellDecoder<Key> decode(a.grid, r.lexicographic);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t v = r.begin[b]; v < r.begin[b + 1]; ++v) {
      Key cell[3];
      decode(keys[v], cell);
      a.coords[4 * v] = static_cast<int32_t>(b);
      for (int axis = 0; axis < 3; ++axis) a.coords[4 * v + 3 - axis] = static_cast<int32_t>(cell[axis]);
    }
}

template <class T>
void fill(VoxelFillArgs<T>& a) {
  const VoxelAssignment& r = a.assignment;
  if (narrow_keys(a.grid))
    write_coords<T, uint32_t>(a);
  else
    write_coords<T, uint64_t>(a);
  std::memcpy(a.num_points, r.counts, static_cast<size_t>(r.voxels) * sizeof(int32_t));
  const size_t rest = static_cast<size_t>(a.rows - r.voxels);
  std::memset(a.coords + 4 * r.voxels, 0xff, 4 * rest * sizeof(int32_t));
  std::memset(a.num_points + r.voxels, 0, rest * sizeof(int32_t));
  if (a.voxels == nullptr) return;
  const int64_t total = a.rows * a.channels * (a.mean ? 1 : a.max_points);
  switch (a.channels) {
    case 3: copy_rows<3>(a, total); break;
    case 4: copy_rows<4>(a, total); break;
    case 5: copy_rows<5>(a, total); break;
    default: copy_rows<0>(a, total);
  }
  if (!a.mean) return;
  for (int64_t v = 0; v < r.voxels; ++v)
    for (int64_t c = 0; c < a.channels; ++c) a.voxels[v * a.channels + c] /= static_cast<T>(r.counts[v]);
}

// ---- gradient ------------------------------------------------------------------------------------------

template <class T>
void backward(VoxelBackwardArgs<T>& a) {
  Scratch scratch;
  int32_t* total = scratch.zeros<int32_t>(a.voxels);
  int32_t* rank = scratch.zeros<int32_t>(a.voxels);
  for (int64_t i = 0; i < a.n; ++i)
    if (a.point2voxel[i] >= 0) ++total[a.point2voxel[i]];
  for (int64_t i = 0; i < a.n; ++i) {
    const int64_t v = a.point2voxel[i];
    T* to = a.grad_points + i * a.channels;
    if (v < 0 || rank[v] >= a.max_points) {
      std::memset(to, 0, static_cast<size_t>(a.channels) * sizeof(T));
      continue;
    }
    const int64_t slot = rank[v]++;
    if (!a.mean) {
      std::memcpy(to, a.grad + (v * a.max_points + slot) * a.channels, static_cast<size_t>(a.channels) * sizeof(T));
      continue;
    }
    const T count = static_cast<T>(total[v] < a.max_points ? total[v] : a.max_points);
    for (int64_t c = 0; c < a.channels; ++c) to[c] = a.grad[v * a.channels + c] / count;
  }
}

}  // namespace

void voxel_assign_f32(VoxelAssignArgs<float>& args) { assign_any(args); }
void voxel_assign_f64(VoxelAssignArgs<double>& args) { assign_any(args); }
void voxel_fill_f32(VoxelFillArgs<float>& args) { fill(args); }
void voxel_fill_f64(VoxelFillArgs<double>& args) { fill(args); }
void voxel_backward_f32(VoxelBackwardArgs<float>& args) { backward(args); }
void voxel_backward_f64(VoxelBackwardArgs<double>& args) { backward(args); }

TENFOLD_END
