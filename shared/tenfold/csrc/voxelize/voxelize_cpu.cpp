#include "voxelize/voxelize.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/radix.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

// The voxel of every stored point. Key is uint32_t where narrow_keys, else uint64_t. n entries each.
template <class Key>
struct Assignment {
  Key* voxel_key;      // the cell of every voxel (CellKeys); lexicographic where voxels are sorted
  int32_t* counts;     // points of every voxel, later those stored
  int32_t* source;     // rows of the stored points; ascending within a voxel
  int32_t* place;      // their rows in (V * P), with mean their voxel; memory for n Keys; null: not wanted
  int64_t* begin;      // (batch + 1,) first voxel of every batch element
  int64_t stored;
  int64_t voxels;
};

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

// The lowest T that is not below `cells`: a number of cells that T rounds down would leave the last one out.
template <class T>
T end_of(int64_t cells) {
  const T end = static_cast<T>(cells);
  return static_cast<int64_t>(end) < cells ? std::nextafter(end, std::numeric_limits<T>::infinity()) : end;
}

// Writes key and row of the points inside the grid, in order, and returns their number. The output has room for
// kBlock and a vector more.
template <class T, class Key>
int quantise_block(const T* points, int64_t channels, int64_t row, int count, const VoxelGrid<T>& grid,
                   const CellKeys<Key>& key_of, Key* keys, int32_t* rows) {
  T x[kBlock], y[kBlock], z[kBlock];
  split_rows(points + row * channels, channels, count, x, y, z);
  const T end_x = end_of<T>(grid.cells[0]), end_y = end_of<T>(grid.cells[1]), end_z = end_of<T>(grid.cells[2]);
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

// Notes the first row that is not finite in bad_row, unless one is noted already.
template <class T, class Key>
int64_t quantise(const VoxelArgs<T>& a, const CellKeys<Key>& key_of, int64_t begin, int64_t end, Key* keys,
                 int32_t* rows, int64_t& bad_row) {
  Key block_keys[kBlock + kLanes];
  int32_t block_rows[kBlock + kLanes];
  int64_t m = 0;
  for (int64_t row = begin; row < end; row += kBlock) {
    const int count = static_cast<int>(end - row < kBlock ? end - row : kBlock);
    const int found = quantise_block(a.points, a.channels, row, count, a.grid, key_of, block_keys, block_rows);
    if (a.validate && found < count && bad_row < 0)
      bad_row = first_not_finite(a.points, a.channels, row, row + count);
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

  template <class Key>
  void prefetch_key(Key key) const { prefetch_write(voxel + key); }
  template <class Key>
  int32_t insert(Key key, int32_t next) {
    const int32_t found = voxel[key];
    return voxel[key] = found < 0 ? next : found;
  }
  template <class Key>
  int32_t find(Key key) const { return voxel[key]; }
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
void number_voxels(Table table, const Numbering<Key>& a, Assignment<Key>& result) {
  Key* voxel_key = result.voxel_key;
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

// Calls f with an empty hash table for at most `voxels` of `points` keys. voxel_key: where f keeps theirs.
template <class F>
void with_hash_table(const HashPlace& place, const uint32_t*, F f) {
  Scratch scratch;
  auto* slot = scratch.take<NarrowTable::Slot>(place.slots());
  std::memset(static_cast<void*>(slot), 0xff, static_cast<size_t>(place.slots()) * sizeof(NarrowTable::Slot));
  f(NarrowTable{slot, place});
}

template <class F>
void with_hash_table(const HashPlace& place, const uint64_t* voxel_key, F f) {
  Scratch scratch;
  int32_t* voxel = scratch.take<int32_t>(place.slots());
  std::memset(voxel, 0xff, static_cast<size_t>(place.slots()) * sizeof(int32_t));
  f(WideTable{voxel, voxel_key, place});
}

template <class Key>
void number_with_table(const Numbering<Key>& a, uint64_t keys, int64_t n, uint64_t multiplier,
                       Assignment<Key>& result) {
  if (keys <= static_cast<uint64_t>(4 * n)) {
    Scratch scratch;
    int32_t* voxel = scratch.take<int32_t>(static_cast<int64_t>(keys));
    std::memset(voxel, 0xff, keys * sizeof(int32_t));
    return number_voxels(DenseTable{voxel}, a, result);
  }
  with_hash_table(hash_place(multiplier, a.m, a.limit - a.first), result.voxel_key,
                  [&](auto table) { number_voxels(table, a, result); });
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
  int shift;

  explicit CellDecoder(const CellKeys<Key>& keys) : x(keys.blocks_x), y(keys.blocks_y), shift(keys.shift) {}

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

// Replaces keys by lexicographic ones.
template <class Key, class T>
void make_lexicographic(const VoxelGrid<T>& grid, Key* keys, int64_t count) {
  const CellDecoder<Key> decode(CellKeys<Key>(grid, false));
  const CellKeys<Key> key_of(grid, true);
  for (int64_t v = 0; v < count; ++v) {
    Key cell[3];
    decode(keys[v], cell);
    keys[v] = key_of(cell[0], cell[1], cell[2]);
  }
}

template <class T>
int lexicographic_bits(const VoxelGrid<T>& grid) {
  return bit_width(static_cast<uint64_t>(grid.cells[0] * grid.cells[1] * grid.cells[2] - 1));
}

// Renumbers the voxels from `first` on, those of the rows listed from `stored` on, in the order of (z, y, x).
template <class Key, class T>
void sort_voxels(int64_t first, int64_t stored, const VoxelGrid<T>& grid, int32_t* point2voxel,
                 Assignment<Key>& result) {
  const int64_t count = result.voxels - first;
  Key* keys = result.voxel_key + first;
  make_lexicographic(grid, keys, count);
  Scratch scratch;
  int32_t* old = scratch.take<int32_t>(count);
  for (int64_t v = 0; v < count; ++v) old[v] = static_cast<int32_t>(v);
  radix_sort(keys, old, count, lexicographic_bits(grid));
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
int64_t assign_element(VoxelArgs<T>& a, int64_t begin, int64_t end, Assignment<Key>& r) {
  Scratch scratch;
  // The lists of this element start where its keys and rows were: writing never overtakes reading.
  Key* keys = r.place == nullptr ? scratch.take<Key>(end - begin)
                                 : static_cast<Key*>(static_cast<void*>(r.place)) + r.stored;
  int32_t* rows = r.source + r.stored;
  const int64_t m = quantise(a, CellKeys<Key>(a.grid, false), begin, end, keys, rows, a.bad_row);
  const int64_t limit = r.voxels + (a.max_voxels < m ? a.max_voxels : m);
  const Numbering<Key> numbering{keys, rows, m, r.voxels, limit, a.max_points, a.mean, a.point2voxel};
  number_with_table(numbering, total_keys(a.grid), end - begin, a.hash_multiplier, r);
  return m;
}

template <class T, class Key>
void assign(VoxelArgs<T>& a, Assignment<Key>& r) {
  fill_bytes(a.point2voxel, 0xff, static_cast<size_t>(a.n) * sizeof(int32_t));
  int64_t inside = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    r.begin[b] = r.voxels;
    const int64_t stored = r.stored;
    inside += assign_element(a, a.offsets[b], a.offsets[b + 1], r);
    if (a.sorted) sort_voxels(r.begin[b], stored, a.grid, a.point2voxel, r);
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

// ---- outputs -------------------------------------------------------------------------------------------

// Calls f with the number of channels as a type where it is a common one, else with 0: short copies and sums are
// several times faster when the compiler knows their length.
template <class F>
void with_channels(int64_t channels, F f) {
  switch (channels) {
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    default: return f(std::integral_constant<int, 0>{});
  }
}

template <int kChannels, class T, class Key>
void copy_rows(const VoxelArgs<T>& a, const Assignment<Key>& r, int64_t total) {
  constexpr int64_t kZeroed = 2048;  // cleared just ahead of the rows that open voxels, while still in cache
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
  fill_bytes(a.voxels + cleared, 0, static_cast<size_t>(total - cleared) * sizeof(T));
}

template <class Key>
void write_coords(const CellDecoder<Key>& decode, Key key, int64_t element, int32_t* coords) {
  Key cell[3];
  decode(key, cell);
  coords[0] = static_cast<int32_t>(element);
  for (int axis = 0; axis < 3; ++axis) coords[3 - axis] = static_cast<int32_t>(cell[axis]);
}

template <class T>
void divide(T* sums, int64_t channels, int32_t count) {
  for (int64_t c = 0; c < channels; ++c) sums[c] /= static_cast<T>(count);
}

template <class T>
int64_t row_size(const VoxelArgs<T>& a) {
  return a.channels * (a.mean ? 1 : a.max_points);
}

template <class T>
int64_t written_voxels(const VoxelArgs<T>& a) {
  return a.count < a.rows ? a.count : a.rows;
}

template <class T>
void clear_rest(const VoxelArgs<T>& a) {
  const int64_t written = written_voxels(a);
  const size_t rest = static_cast<size_t>(a.rows - written);
  fill_bytes(a.coords + 4 * written, 0xff, 4 * rest * sizeof(int32_t));
  fill_bytes(a.num_points + written, 0, rest * sizeof(int32_t));
  for (int64_t i = 0; a.count > a.rows && i < a.n; ++i)
    if (a.point2voxel[i] >= a.rows) a.point2voxel[i] = -1;
}

template <class T, class Key>
void fill(const VoxelArgs<T>& a, const Assignment<Key>& r) {
  const CellDecoder<Key> decode(CellKeys<Key>(a.grid, a.sorted));
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t v = r.begin[b]; v < r.begin[b + 1] && v < a.rows; ++v)
      write_coords(decode, r.voxel_key[v], b, a.coords + 4 * v);
  copy_bytes(a.num_points, r.counts, static_cast<size_t>(written_voxels(a)) * sizeof(int32_t));
  clear_rest(a);
  if (!a.copy) return;
  const int64_t total = a.rows * row_size(a);
  with_channels(a.channels, [&](auto known) { copy_rows<known>(a, r, total); });
  if (!a.mean) return;
  for (int64_t v = 0; v < r.voxels; ++v) divide(a.voxels + v * a.channels, a.channels, r.counts[v]);
}

template <class T, class Key>
void voxelize_serial(VoxelArgs<T>& a) {
  Scratch scratch;
  Assignment<Key> r{};
  r.voxel_key = scratch.take<Key>(a.n);
  r.counts = scratch.take<int32_t>(a.n);
  r.source = scratch.take<int32_t>(a.n);
  r.place = a.copy ? static_cast<int32_t*>(static_cast<void*>(scratch.take<Key>(a.n))) : nullptr;
  r.begin = scratch.take<int64_t>(a.batch + 1);
  assign(a, r);
  if (a.bad_row >= 0) return;
  a.count = r.voxels;
  a.allocate(a, a.context);
  fill(a, r);
}

// ---- several threads -----------------------------------------------------------------------------------
// Pieces of the rows are quantised and dealt into bins, by a hash of the cell's block or, for sorted voxels, by
// ranges of lexicographic keys. Every bin finds its voxels, which it calls by slots of its own range. The rows that
// are first in their voxel, in order, number the voxels (sorted: the order within bins does). Then pieces write
// their points and a run of voxels, and bins the means. Three regions, and the same result as the serial path.

constexpr int64_t kPiece = int64_t{1} << 14;
constexpr int kBins = 16;

template <class Key>
struct Split {
  int64_t pieces;
  int64_t* piece_begin;    // (pieces,) rows of a piece; the binned points of a piece start there too
  int64_t* piece_end;
  int64_t* piece_element;
  int64_t* element_piece;  // (batch + 1,) first piece of every batch element
  int64_t* element_voxel;  // (batch + 1,) first voxel of every batch element
  int64_t* piece_bad;
  int32_t* bin_end;        // (pieces, kBins) within the piece
  int64_t* slot_begin;     // (batch * kBins,) first slot of every bin of every element
  int64_t* slot_end;
  Key* slot;               // (n,) of the binned points: key, later slot
  int32_t* row;            // (n,)
  int32_t* rank;           // (n,) within their voxel; null: not wanted
  Key* voxel_key;          // by slot, as all that follow
  int32_t* voxel;          // first row (sorted: place in the bin), later the voxel or -1
  int32_t* count;
  int32_t* voxel_slot;     // by voxel
  uint8_t* is_first;       // (n,) by row; null where voxels are sorted
  Key* splitters;          // (batch, kBins - 1) of lexicographic keys; null where bins are hashed
};

template <class Key>
void find_bins(const Key* keys, int64_t m, const Key* splitters, uint64_t multiplier, uint8_t* bin) {
  if (splitters == nullptr) {
    for (int64_t j = 0; j < m; ++j)  // bits that HashPlace uses last
      bin[j] = static_cast<uint8_t>(((static_cast<uint64_t>(keys[j]) >> 3) * multiplier) >> 24 & (kBins - 1));
    return;
  }
  for (int64_t j = 0; j < m; ++j) {
    int b = 0;
    for (int k = 0; k < kBins - 1; ++k) b += keys[j] >= splitters[k];
    bin[j] = static_cast<uint8_t>(b);
  }
}

// Splits the keys of one element into ranges of about equal numbers of points, from a sample.
template <class T, class Key>
void choose_splitters(const VoxelArgs<T>& a, const CellKeys<Key>& key_of, int64_t begin, int64_t end,
                      Key* splitters) {
  constexpr int kSample = 512;
  Key sample[kSample + kLanes];
  int32_t rows[kSample + kLanes];
  int m = 0;
  for (int64_t i = 0; i < kSample && begin < end; ++i)
    m += quantise_block(a.points, a.channels, begin + (end - begin) * i / kSample, 1, a.grid, key_of, sample + m,
                        rows + m);
  radix_sort(sample, rows, m);
  for (int k = 0; k < kBins - 1; ++k) splitters[k] = m > 0 ? sample[m * (k + 1) / kBins] : 0;
}

template <class T, class Key>
void plan(const VoxelArgs<T>& a, Split<Key>& s, Scratch& scratch) {
  s.element_piece = scratch.take<int64_t>(a.batch + 1);
  s.element_voxel = scratch.take<int64_t>(a.batch + 1);
  for (int64_t b = 0; b < a.batch; ++b) {
    s.element_piece[b] = s.pieces;
    s.pieces += (a.offsets[b + 1] - a.offsets[b] + kPiece - 1) / kPiece;
  }
  s.element_piece[a.batch] = s.pieces;
  s.piece_begin = scratch.take<int64_t>(s.pieces);
  s.piece_end = scratch.take<int64_t>(s.pieces);
  s.piece_element = scratch.take<int64_t>(s.pieces);
  s.piece_bad = scratch.take<int64_t>(s.pieces);
  s.bin_end = scratch.take<int32_t>(s.pieces * kBins);
  s.slot_begin = scratch.take<int64_t>(a.batch * kBins);
  s.slot_end = scratch.take<int64_t>(a.batch * kBins);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t p = s.element_piece[b]; p < s.element_piece[b + 1]; ++p) {
      s.piece_begin[p] = a.offsets[b] + (p - s.element_piece[b]) * kPiece;
      s.piece_end[p] = s.piece_begin[p] + kPiece < a.offsets[b + 1] ? s.piece_begin[p] + kPiece : a.offsets[b + 1];
      s.piece_element[p] = b;
    }
}

template <class T, class Key>
void deal_piece(const VoxelArgs<T>& a, const Split<Key>& s, int64_t p) {
  Scratch scratch;
  const int64_t begin = s.piece_begin[p];
  const int64_t rows = s.piece_end[p] - begin;
  Key* keys = scratch.take<Key>(rows);
  int32_t* row = scratch.take<int32_t>(rows);
  uint8_t* bin = scratch.take<uint8_t>(rows);
  s.piece_bad[p] = -1;
  const int64_t m = quantise(a, CellKeys<Key>(a.grid, a.sorted), begin, begin + rows, keys, row, s.piece_bad[p]);
  const Key* splitters = s.splitters == nullptr ? nullptr : s.splitters + s.piece_element[p] * (kBins - 1);
  find_bins(keys, m, splitters, a.hash_multiplier, bin);
  int32_t next[kBins] = {};
  for (int64_t j = 0; j < m; ++j) ++next[bin[j]];
  int32_t sum = 0;
  for (int b = 0; b < kBins; ++b) {
    const int32_t here = next[b];
    next[b] = sum;
    sum += here;
    s.bin_end[p * kBins + b] = sum;
  }
  for (int64_t j = 0; j < m; ++j) {
    const int64_t at = begin + next[bin[j]]++;
    s.slot[at] = keys[j];
    s.row[at] = row[j];
  }
  if (s.is_first != nullptr) std::memset(s.is_first + begin, 0, static_cast<size_t>(rows));
}

// Calls f(begin, end) for the binned points of one bin, in the order of their rows.
template <class Key, class F>
void for_bin(const Split<Key>& s, int64_t element, int bin, F f) {
  for (int64_t p = s.element_piece[element]; p < s.element_piece[element + 1]; ++p) {
    const int32_t* end = s.bin_end + p * kBins;
    f(s.piece_begin[p] + (bin > 0 ? end[bin - 1] : 0), s.piece_begin[p] + end[bin]);
  }
}

// Writes the place of every voxel of the bin in the order of keys.
template <class T, class Key>
void order_bin(const VoxelArgs<T>& a, const Split<Key>& s, int64_t base, int64_t count) {
  Scratch scratch;
  Key* keys = scratch.take<Key>(count);
  int32_t* index = scratch.take<int32_t>(count);
  std::memcpy(keys, s.voxel_key + base, static_cast<size_t>(count) * sizeof(Key));
  for (int64_t v = 0; v < count; ++v) index[v] = static_cast<int32_t>(v);
  radix_sort(keys, index, count, lexicographic_bits(a.grid));
  for (int64_t v = 0; v < count; ++v) s.voxel[base + index[v]] = static_cast<int32_t>(v);
}

template <class T, class Key>
void number_bin(const VoxelArgs<T>& a, const Split<Key>& s, int64_t task) {
  const int64_t base = s.slot_begin[task];
  const int64_t points = s.slot_end[task] - base;
  if (points == 0) return;
  int32_t next = 0;
  Key* voxel_key = s.voxel_key + base;
  with_hash_table(hash_place(a.hash_multiplier, points, points), voxel_key, [&](auto table) {
    for_bin(s, task / kBins, static_cast<int>(task % kBins), [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        if (j + kAhead < end) table.prefetch_key(s.slot[j + kAhead]);
        const Key key = s.slot[j];
        voxel_key[next] = key;
        const int32_t voxel = table.insert(key, next);
        const int64_t slot = base + voxel;
        if (voxel == next) {
          s.voxel[slot] = s.row[j];
          s.count[slot] = 0;
          if (s.is_first != nullptr) s.is_first[s.row[j]] = 1;
          ++next;
        }
        const int32_t rank = s.count[slot]++;
        if (s.rank != nullptr) s.rank[j] = rank;
        s.slot[j] = static_cast<Key>(slot);
      }
    });
  });
  s.slot_end[task] = base + next;
  if (a.sorted) order_bin(a, s, base, next);
}

// Numbers the voxels by the order of the rows that opened them.
template <class T, class Key>
void number_first_come(VoxelArgs<T>& a, const Split<Key>& s) {
  Scratch scratch;
  const int64_t words = a.n / 64 + 1;
  uint64_t* bits = scratch.zeros<uint64_t>(words);
  int32_t* before = scratch.take<int32_t>(words);
  int32_t sum = 0;
  for (int64_t w = 0; w < words; ++w) {
    before[w] = sum;
    const int64_t left = a.n - 64 * w;
    for (int k = 0; k < 8 && 8 * k < left; ++k) {
      uint64_t flags = 0;
      std::memcpy(&flags, s.is_first + 64 * w + 8 * k, static_cast<size_t>(left - 8 * k < 8 ? left - 8 * k : 8));
      bits[w] |= (flags * 0x0102040810204080ull >> 56) << (8 * k);  // the low bit of every byte
    }
    sum += __builtin_popcountll(bits[w]);
  }
  const auto firsts_before = [&](int64_t row) {
    return before[row >> 6] + __builtin_popcountll(bits[row >> 6] & ((uint64_t{1} << (row & 63)) - 1));
  };
  int64_t next = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t skipped = firsts_before(a.offsets[b]);
    const int64_t opened = firsts_before(a.offsets[b + 1]) - skipped;
    const int64_t kept = opened < a.max_voxels ? opened : a.max_voxels;
    for (int64_t task = b * kBins; task < (b + 1) * kBins; ++task)
      for (int64_t slot = s.slot_begin[task]; slot < s.slot_end[task]; ++slot) {
        const int64_t id = firsts_before(s.voxel[slot]) - skipped;
        s.voxel[slot] = static_cast<int32_t>(id < kept ? next + id : -1);
        if (id < kept) s.voxel_slot[next + id] = static_cast<int32_t>(slot);
      }
    s.element_voxel[b] = next;
    next += kept;
  }
  s.element_voxel[a.batch] = a.count = next;
}

// Numbers the voxels by (b, z, y, x): bins hold ascending ranges.
template <class T, class Key>
void number_sorted(VoxelArgs<T>& a, const Split<Key>& s) {
  int64_t next = 0;
  for (int64_t task = 0; task < a.batch * kBins; ++task) {
    if (task % kBins == 0) s.element_voxel[task / kBins] = next;
    for (int64_t slot = s.slot_begin[task]; slot < s.slot_end[task]; ++slot) {
      s.voxel[slot] += static_cast<int32_t>(next);
      s.voxel_slot[s.voxel[slot]] = static_cast<int32_t>(slot);
    }
    next += s.slot_end[task] - s.slot_begin[task];
  }
  s.element_voxel[a.batch] = a.count = next;
}

template <class T, class Key>
void count_dropped(VoxelArgs<T>& a, const Split<Key>& s) {
  int64_t inside = 0, in_voxels = 0, stored = 0;
  for (int64_t p = 0; p < s.pieces; ++p) inside += s.bin_end[p * kBins + kBins - 1];
  for (int64_t task = 0; task < a.batch * kBins; ++task)
    for (int64_t slot = s.slot_begin[task]; slot < s.slot_end[task]; ++slot) {
      if (s.voxel[slot] < 0) continue;
      in_voxels += s.count[slot];
      stored += s.count[slot] < a.max_points ? s.count[slot] : a.max_points;
    }
  a.dropped[0] = a.n - inside;
  a.dropped[1] = inside - in_voxels;
  a.dropped[2] = in_voxels - stored;
}

// point2voxel of the piece, and the copies of its points.
template <int kChannels, class T, class Key>
void write_points(const VoxelArgs<T>& a, const Split<Key>& s, int64_t p) {
  const int64_t begin = s.piece_begin[p];
  const int64_t end = begin + s.bin_end[p * kBins + kBins - 1];
  fill_bytes(a.point2voxel + begin, 0xff, static_cast<size_t>(s.piece_end[p] - begin) * sizeof(int32_t));
  for (int64_t j = begin; j < end; ++j) a.point2voxel[s.row[j]] = s.voxel[s.slot[j]];
  if (!a.copy || a.mean) return;
  // Ranks go back to the order of rows: both the points and the voxels they open then follow each other.
  Scratch scratch;
  int32_t* rank = scratch.take<int32_t>(s.piece_end[p] - begin);
  for (int64_t j = begin; j < end; ++j) rank[s.row[j] - begin] = s.rank[j];
  const int64_t channels = kChannels ? kChannels : a.channels;
  const auto place = [&](int64_t row) {
    const int64_t v = a.point2voxel[row];
    const bool stored = v >= 0 && rank[row - begin] < a.max_points;
    return stored ? a.voxels + (v * a.max_points + rank[row - begin]) * channels : nullptr;
  };
  for (int64_t row = begin; row < s.piece_end[p]; ++row) {
    if (row + kAhead < s.piece_end[p]) prefetch_write(place(row + kAhead));
    T* to = place(row);
    if (to != nullptr) std::memcpy(to, a.points + row * channels, static_cast<size_t>(channels) * sizeof(T));
  }
}

// coords and num_points of the piece's share of the voxels, and their unused slots.
template <class T, class Key>
void write_voxels(const VoxelArgs<T>& a, const Split<Key>& s, int64_t p) {
  const CellDecoder<Key> decode(CellKeys<Key>(a.grid, a.sorted));
  int64_t element = 0;
  const int64_t voxels = written_voxels(a);
  for (int64_t v = voxels * p / s.pieces; v < voxels * (p + 1) / s.pieces; ++v) {
    const int64_t slot = s.voxel_slot[v];
    while (v >= s.element_voxel[element + 1]) ++element;
    const int32_t count = s.count[slot] < a.max_points ? s.count[slot] : static_cast<int32_t>(a.max_points);
    write_coords(decode, s.voxel_key[slot], element, a.coords + 4 * v);
    a.num_points[v] = count;
    if (!a.copy || a.mean) continue;
    const int64_t used = count * a.channels;
    fill_bytes(a.voxels + v * row_size(a) + used, 0, static_cast<size_t>(row_size(a) - used) * sizeof(T));
  }
}

// Means of the bin's voxels: sums in ascending order of rows, close together until they are complete.
template <int kChannels, class T, class Key>
void write_means(const VoxelArgs<T>& a, const Split<Key>& s, int64_t task) {
  Scratch scratch;
  const int64_t channels = kChannels ? kChannels : a.channels;
  const int64_t base = s.slot_begin[task];
  T* sums = scratch.zeros<T>((s.slot_end[task] - base) * channels);
  for_bin(s, task / kBins, static_cast<int>(task % kBins), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      if (j + kAhead < end) prefetch(a.points + s.row[j + kAhead] * channels);
      if (s.rank[j] >= a.max_points) continue;
      const T* from = a.points + s.row[j] * channels;
      T* sum = sums + (static_cast<int64_t>(s.slot[j]) - base) * channels;
      for (int64_t c = 0; c < channels; ++c) sum[c] += from[c];
    }
  });
  for (int64_t slot = base; slot < s.slot_end[task]; ++slot) {
    if (s.voxel[slot] < 0) continue;
    T* sum = sums + (slot - base) * channels;
    divide(sum, channels, s.count[slot] < a.max_points ? s.count[slot] : static_cast<int32_t>(a.max_points));
    std::memcpy(a.voxels + s.voxel[slot] * channels, sum, static_cast<size_t>(channels) * sizeof(T));
  }
}

template <class T, class Key>
void voxelize_parallel(VoxelArgs<T>& a) {
  Scratch scratch;
  Split<Key> s{};
  plan(a, s, scratch);
  s.slot = scratch.take<Key>(a.n);
  s.row = scratch.take<int32_t>(a.n);
  if (a.copy) s.rank = scratch.take<int32_t>(a.n);
  s.voxel_key = scratch.take<Key>(a.n);
  s.voxel = scratch.take<int32_t>(a.n);
  s.count = scratch.take<int32_t>(a.n);
  s.voxel_slot = scratch.take<int32_t>(a.n);
  if (a.sorted) {
    s.splitters = scratch.take<Key>(a.batch * (kBins - 1));
    for (int64_t b = 0; b < a.batch; ++b)
      choose_splitters(a, CellKeys<Key>(a.grid, true), a.offsets[b], a.offsets[b + 1], s.splitters + b * (kBins - 1));
  } else {
    s.is_first = scratch.take<uint8_t>(a.n);
  }
  parallel_tasks(a.parallel, s.pieces, [&](int64_t p) { deal_piece(a, s, p); });
  for (int64_t p = s.pieces - 1; p >= 0; --p)
    if (s.piece_bad[p] >= 0) a.bad_row = s.piece_bad[p];
  if (a.bad_row >= 0) return;
  int64_t slots = 0;
  for (int64_t task = 0; task < a.batch * kBins; ++task) {
    s.slot_begin[task] = slots;
    for_bin(s, task / kBins, static_cast<int>(task % kBins), [&](int64_t begin, int64_t end) { slots += end - begin; });
    s.slot_end[task] = slots;
  }
  parallel_tasks(a.parallel, a.batch * kBins, [&](int64_t task) { number_bin(a, s, task); });
  if (a.sorted)
    number_sorted(a, s);
  else
    number_first_come(a, s);
  count_dropped(a, s);
  a.allocate(a, a.context);
  const int64_t means = a.copy && a.mean ? a.batch * kBins : 0;
  parallel_tasks(a.parallel, s.pieces + means, [&](int64_t task) {
    // Means are spread among the pieces, so that every run of tasks holds some of both.
    const int64_t before = means * task / (s.pieces + means);
    const bool is_mean = means * (task + 1) / (s.pieces + means) > before;
    // From both ends: early pieces open and fill most voxels, and tasks are handed out in runs.
    const int64_t t = task - before;
    const int64_t piece = t % 2 == 0 ? t / 2 : s.pieces - 1 - t / 2;
    if (!is_mean) write_voxels(a, s, piece);
    with_channels(a.channels, [&](auto known) {
      if (is_mean)
        write_means<known>(a, s, before);
      else
        write_points<known>(a, s, piece);
    });
  });
  clear_rest(a);
  if (a.copy)
    fill_bytes(a.voxels + a.count * row_size(a), 0,
                static_cast<size_t>((a.rows - a.count) * row_size(a)) * sizeof(T));
}

template <class T>
void voxelize(VoxelArgs<T>& a) {
  constexpr int64_t kParallelRows = 4 * kPiece;
  a.bad_row = -1;
  const bool narrow = narrow_keys(a.grid);
  if (a.parallel.threads > 1 && a.n >= kParallelRows)
    return narrow ? voxelize_parallel<T, uint32_t>(a) : voxelize_parallel<T, uint64_t>(a);
  return narrow ? voxelize_serial<T, uint32_t>(a) : voxelize_serial<T, uint64_t>(a);
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

void voxelize_f32(VoxelArgs<float>& args) { voxelize(args); }
void voxelize_f64(VoxelArgs<double>& args) { voxelize(args); }
void voxel_backward_f32(VoxelBackwardArgs<float>& args) { backward(args); }
void voxel_backward_f64(VoxelBackwardArgs<double>& args) { backward(args); }

TENFOLD_END
