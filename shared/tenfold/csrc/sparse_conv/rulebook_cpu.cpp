#include "sparse_conv/rulebook.h"

#include <cstring>
#include <numeric>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/radix.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

// One padded cell per reachable step on each axis, so that a neighbour's key never wraps into another row.
struct KeySpace {
  int64_t pad[3];
  int64_t step_z, step_y, step_b;
  int bits;

  KeySpace(const SiteGrid& grid, const int64_t (&reach)[3]) {
    int64_t size[3];
    for (int a = 0; a < 3; ++a) {
      pad[a] = reach[a];
      size[a] = grid.shape[a] + 2 * reach[a];
    }
    step_y = size[2];
    step_z = size[1] * step_y;
    step_b = size[0] * step_z;
    bits = 1;
    while (bits < 63 && (uint64_t{1} << bits) <= static_cast<uint64_t>(grid.batch * step_b)) ++bits;
  }

  int64_t key(const int32_t* c) const {
    return c[0] * step_b + (c[1] + pad[0]) * step_z + (c[2] + pad[1]) * step_y + (c[3] + pad[2]);
  }
};

// As unsigned numbers, negative coordinates are beyond every extent.
bool in_grid(const int32_t* c, const SiteGrid& grid) {
  const auto below = [](int32_t value, int64_t extent) { return int64_t{static_cast<uint32_t>(value)} < extent; };
  return below(c[0], grid.batch) & below(c[1], grid.shape[0]) & below(c[2], grid.shape[1]) &
         below(c[3], grid.shape[2]);
}

// Sites inside the grid as ascending keys with their rows; equal keys keep their row order.
struct SortedSites {
  uint64_t* key;
  int32_t* row;
  int64_t count = 0;
  bool unique = true;
};

SortedSites sort_sites(Scratch& scratch, const int32_t* coords, int64_t n, const SiteGrid& grid,
                       const KeySpace& space, SiteFault& fault, int64_t& fault_row) {
  SortedSites sites{scratch.take<uint64_t>(n + 1), scratch.take<int32_t>(n + 1)};
  bool ascending = true;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t* c = coords + 4 * i;
    if (!in_grid(c, grid)) {
      if (fault == SiteFault::none) {
        fault = SiteFault::out_of_range;
        fault_row = i;
      }
      continue;
    }
    const uint64_t key = static_cast<uint64_t>(space.key(c));
    ascending &= sites.count == 0 || sites.key[sites.count - 1] <= key;
    sites.key[sites.count] = key;
    sites.row[sites.count++] = static_cast<int32_t>(i);
  }
  if (!ascending) radix_sort(sites.key, sites.row, sites.count, space.bits);
  int64_t duplicate = -1;
  for (int64_t i = 1; i < sites.count; ++i)
    if (sites.key[i] == sites.key[i - 1] && (duplicate < 0 || sites.row[i] < duplicate)) duplicate = sites.row[i];
  sites.unique = duplicate < 0;
  if (duplicate >= 0 && (fault == SiteFault::none || duplicate < fault_row)) {
    fault = SiteFault::duplicate;
    fault_row = duplicate;
  }
  sites.key[sites.count] = ~uint64_t{0};  // sentinel: no target reaches it
  return sites;
}

// A kernel line: all x offsets at one (z, y).
struct Line {
  int64_t delta;        // key distance of its first offset
  int64_t first_offset;
  int64_t count;
};

// The table columns of the sites and, where the kernel is symmetric, those of the sites found.
struct Writer {
  int32_t* table;
  int64_t n;
  int64_t offsets;
  bool mirror;

  void hit(int64_t k, int32_t row, int32_t found) const {
    table[k * n + row] = found;
    if (mirror) table[(offsets - 1 - k) * n + found] = row;
  }
};

// Any key width and dilation: one pointer advances along the sorted keys.
void sweep_line(const SortedSites& sites, const Line& line, int64_t step, const Writer& writer) {
  int64_t j = 0;
  const uint64_t* key = sites.key;
  for (int64_t i = 0; i < sites.count; ++i) {
    const uint64_t target = key[i] + static_cast<uint64_t>(line.delta);
    while (key[j] < target) ++j;
    int64_t t = j;
    for (int64_t x = 0; x < line.count; ++x) {
      const uint64_t wanted = target + static_cast<uint64_t>(x * step);
      while (key[t] < wanted) ++t;
      if (key[t] == wanted) writer.hit(line.first_offset + x, sites.row[i], sites.row[t]);
    }
  }
}

// Positions of the first key not below key[i] + delta, for every i. Whether the merge takes from one side or the
// other cannot be predicted, so it is done without branches, and four lines at once hide each other's latency.
template <int N>
void lower_bounds(const uint32_t* key, int64_t n, const Line* lines, int32_t* const* position) {
  uint32_t delta[N];
  int64_t i[N], j[N];
  for (int l = 0; l < N; ++l) {
    delta[l] = static_cast<uint32_t>(lines[l].delta);
    i[l] = j[l] = 0;
  }
  for (bool going = n > 0; going;) {
    for (int l = 0; l < N; ++l) {
      const bool below = key[j[l]] < key[i[l]] + delta[l];
      position[l][i[l]] = static_cast<int32_t>(j[l]);
      j[l] += below;
      i[l] += !below;
      going = going && i[l] < n;
    }
  }
  if constexpr (N > 1) {
    for (int l = 0; l < N; ++l) {
      while (i[l] < n) {
        const bool below = key[j[l]] < key[i[l]] + delta[l];
        position[l][i[l]] = static_cast<int32_t>(j[l]);
        j[l] += below;
        i[l] += !below;
      }
    }
  }
}

// 32-bit keys, neighbouring x: from each position on, up to `count` consecutive keys are compared.
void match_line(const uint32_t* key, const int32_t* row, int64_t n, const Line& line, const int32_t* position,
                const Writer& writer) {
  alignas(64) int32_t sites[2 * kLanes];
  alignas(64) int32_t found[2 * kLanes];
  const vint lane = viota();
  const int32_t* signed_key = reinterpret_cast<const int32_t*>(key);
  for (int64_t i = 0; i < n; i += kLanes) {
    const lane_mask live = first_lanes(n - i);
    vint at = vload(position + i);
    vint wanted = vload(signed_key + i) + static_cast<int32_t>(line.delta);
    for (int64_t x = 0; x < line.count; ++x) {
      const lane_mask hit = veq(vgather(signed_key, at), wanted) & live;
      if (hit != 0) {
        const int hits = vcompress(sites, lane + static_cast<int32_t>(i), hit);
        vcompress(found, at, hit);
        for (int h = 0; h < hits; ++h) writer.hit(line.first_offset + x, row[sites[h]], row[found[h]]);
        at = vadd_where(at, 1, hit);
      }
      wanted = wanted + 1;
    }
  }
}

// The sites of the same row: the key just below.
void match_previous(const uint32_t* key, const int32_t* row, int64_t n, int64_t offset, const Writer& writer) {
  for (int64_t i = 1; i < n; ++i)
    if (key[i] - key[i - 1] == 1) writer.hit(offset, row[i], row[i - 1]);
}

constexpr int kLinesAtOnce = 4;

void sweep_fast(Scratch& scratch, const SortedSites& sites, const Line* lines, int64_t count, const Writer& writer) {
  const int64_t n = sites.count;
  uint32_t* key = scratch.take<uint32_t>(n + kLanes);
  for (int64_t i = 0; i <= n; ++i) key[i] = static_cast<uint32_t>(sites.key[i]);
  for (int64_t i = n + 1; i < n + kLanes; ++i) key[i] = ~uint32_t{0};
  int32_t* position[kLinesAtOnce];
  for (auto& p : position) {
    p = scratch.take<int32_t>(n + kLanes);
    for (int64_t i = n; i < n + kLanes; ++i) p[i] = 0;
  }
  for (int64_t first = 0; first < count;) {
    const int64_t group = count - first >= kLinesAtOnce ? kLinesAtOnce : 1;
    if (group == 1 && lines[first].count == 1 && lines[first].delta == -1) {
      match_previous(key, sites.row, n, lines[first].first_offset, writer);
    } else {
      if (group == kLinesAtOnce) {
        lower_bounds<kLinesAtOnce>(key, n, lines + first, position);
      } else {
        lower_bounds<1>(key, n, lines + first, position);
      }
      for (int64_t l = 0; l < group; ++l)
        match_line(key, sites.row, n, lines[first + l], position[l], writer);
    }
    first += group;
  }
}

}  // namespace

void rulebook_submanifold(SubmanifoldArgs& a) {
  const int64_t* kernel = a.geometry.kernel;
  const int64_t* dilation = a.geometry.dilation;
  const int64_t offsets = kernel[0] * kernel[1] * kernel[2];
  a.fault = SiteFault::none;
  a.fault_row = -1;
  Scratch scratch;
  int64_t reach[3];
  for (int d = 0; d < 3; ++d) reach[d] = dilation[d] * (kernel[d] / 2);
  const KeySpace space(a.grid, reach);
  const SortedSites sites = sort_sites(scratch, a.coords, a.n, a.grid, space, a.fault, a.fault_row);
  if (a.validate && a.fault != SiteFault::none) return;

  const bool odd = kernel[0] % 2 == 1 && kernel[1] % 2 == 1 && kernel[2] % 2 == 1;
  const int64_t total = kernel[0] * kernel[1];
  // Mirrored: the lines before the middle one, and the middle line's first half; the rest follows by symmetry.
  const bool mirror = odd && sites.unique;
  const int64_t count = mirror ? total / 2 + 1 : total;
  Line* lines = scratch.take<Line>(count);
  for (int64_t l = 0; l < count; ++l) {
    const int64_t dz = (l / kernel[1] - (kernel[0] - 1) / 2) * dilation[0];
    const int64_t dy = (l % kernel[1] - (kernel[1] - 1) / 2) * dilation[1];
    const int64_t dx = -((kernel[2] - 1) / 2) * dilation[2];
    const bool middle = mirror && l == count - 1;
    lines[l] = {dz * space.step_z + dy * space.step_y + dx, l * kernel[2], middle ? kernel[2] / 2 : kernel[2]};
  }
  const Writer writer{a.table, a.n, offsets, mirror};
  fill_bytes(a.table, 0xff, static_cast<size_t>(offsets * a.n) * sizeof(int32_t));
  const bool fast = space.bits < 32 && dilation[2] == 1 && sites.unique;
  const int64_t piece = a.n < 32768 ? count : fast ? kLinesAtOnce : 1;
  parallel_ranges(a.parallel, count, piece, [&](int64_t, int64_t begin, int64_t end) {
    Scratch local;
    if (fast) {
      sweep_fast(local, sites, lines + begin, end - begin, writer);
    } else {
      for (int64_t l = begin; l < end; ++l) sweep_line(sites, lines[l], dilation[2], writer);
    }
  });
  if (mirror)
    for (int64_t i = 0; i < sites.count; ++i) a.table[offsets / 2 * a.n + sites.row[i]] = sites.row[i];
}

namespace {

// For each coordinate value on one axis: the outputs it reaches, ascending, with the kernel index that does it.
struct AxisReach {
  int64_t most;      // entries of a value at most
  int32_t* count;    // (size)
  int32_t* output;   // (size, most)
  int32_t* index;

  AxisReach(Scratch& scratch, int64_t size, int64_t out_size, int64_t kernel, int64_t stride, int64_t padding,
            int64_t dilation) {
    const int64_t apart = stride / std::gcd(stride, dilation);  // of kernel indices that serve one coordinate
    most = (kernel + apart - 1) / apart;
    count = scratch.zeros<int32_t>(size);
    output = scratch.zeros<int32_t>(size * most);
    index = scratch.zeros<int32_t>(size * most);
    for (int64_t o = 0; o < out_size; ++o) {
      for (int64_t k = 0; k < kernel; ++k) {
        const int64_t i = o * stride - padding + k * dilation;
        if (i < 0 || i >= size) continue;
        output[i * most + count[i]] = static_cast<int32_t>(o);
        index[i * most + count[i]++] = static_cast<int32_t>(k);
      }
    }
  }
};

int field_bits(int64_t values) {
  int bits = 0;
  while ((int64_t{1} << bits) < values) ++bits;
  return bits;
}

// Output sites as bit fields, so that coordinates come back by shifts.
struct SiteFields {
  int x, y, z, b;
  explicit SiteFields(const SiteGrid& g)
      : x(field_bits(g.shape[2])), y(field_bits(g.shape[1])), z(field_bits(g.shape[0])), b(field_bits(g.batch)) {}
  int bits() const { return x + y + z + b; }
};

// Payload: kernel offset in the low bits, input row above.
constexpr int kOffsetBits = 20;

struct GridReach {
  AxisReach z, y, x;
  GridReach(Scratch& s, const StridedArgs& a) : z(axis(s, a, 0)), y(axis(s, a, 1)), x(axis(s, a, 2)) {}

 private:
  static AxisReach axis(Scratch& s, const StridedArgs& a, int d) {
    const ConvGeometry& g = a.geometry;
    return AxisReach(s, a.grid.shape[d], a.out_grid.shape[d], g.kernel[d], g.stride[d], g.padding[d], g.dilation[d]);
  }
};

// Writes the pairs of every input in row order: output site key, and input row with kernel offset. How many outputs
// a coordinate reaches along x cannot be predicted, so there all places are written and the reached ones kept.
// Scratch of the caller has room for one more row of pairs behind the last.
template <class Key>
int64_t emit_pairs(const StridedArgs& a, const GridReach& reach, const SiteFields& fields, Key* key) {
  const AxisReach &z = reach.z, &y = reach.y, &x = reach.x;
  int64_t pairs = 0;
  for (int64_t i = 0; i < a.n; ++i) {
    const int32_t* c = a.coords + 4 * i;
    if (!in_grid(c, a.grid)) continue;
    const uint64_t row = static_cast<uint64_t>(i) << kOffsetBits;
    const int32_t* out_x = x.output + c[3] * x.most;
    const int32_t* index_x = x.index + c[3] * x.most;
    const int64_t reached = x.count[c[3]];
    for (int64_t iz = c[1] * z.most; iz < c[1] * z.most + z.count[c[1]]; ++iz) {
      const uint64_t key_z = (static_cast<uint64_t>(c[0]) << fields.z) | static_cast<uint32_t>(z.output[iz]);
      const int64_t offset_z = z.index[iz] * a.geometry.kernel[1];
      for (int64_t iy = c[2] * y.most; iy < c[2] * y.most + y.count[c[2]]; ++iy) {
        const uint64_t key_y = ((key_z << fields.y) | static_cast<uint32_t>(y.output[iy])) << fields.x;
        const int64_t offset_y = (offset_z + y.index[iy]) * a.geometry.kernel[2];
        for (int64_t ix = 0; ix < x.most; ++ix) {
          key[pairs + ix] = static_cast<Key>(key_y | static_cast<uint32_t>(out_x[ix]));
          a.payload[pairs + ix] = row | static_cast<uint64_t>(offset_y + index_x[ix]);
        }
        pairs += reached;
      }
    }
  }
  return pairs;
}

// Pairs that `emit_pairs` will write.
int64_t count_pairs(const StridedArgs& a, const GridReach& reach) {
  int64_t pairs = 0;
  for (int64_t i = 0; i < a.n; ++i) {
    const int32_t* c = a.coords + 4 * i;
    if (in_grid(c, a.grid)) pairs += int64_t{reach.z.count[c[1]]} * reach.y.count[c[2]] * reach.x.count[c[3]];
  }
  return pairs;
}

// The first row that is outside the grid or repeats a site. Sites that were chosen to collide are sorted instead.
void find_fault(Scratch& scratch, StridedArgs& a) {
  constexpr int kPatience = 256;
  const int64_t none[3] = {0, 0, 0};
  const KeySpace space(a.grid, none);
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * a.n) ++bits;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  int32_t* slot = scratch.zeros<int32_t>(int64_t{1} << bits);  // row + 1
  for (int64_t i = 0; i < a.n; ++i) {
    const int32_t* c = a.coords + 4 * i;
    a.fault_row = i;
    if (!in_grid(c, a.grid)) {
      a.fault = SiteFault::out_of_range;
      return;
    }
    uint64_t at = (static_cast<uint64_t>(space.key(c)) * 0x9E3779B97F4A7C15u) >> (64 - bits);
    for (int probes = 0; slot[at] != 0; at = (at + 1) & mask) {
      if (++probes > kPatience) {
        a.fault_row = -1;
        sort_sites(scratch, a.coords, a.n, a.grid, space, a.fault, a.fault_row);
        return;
      }
      if (std::memcmp(a.coords + 4 * (slot[at] - 1), c, 4 * sizeof(int32_t)) != 0) continue;
      a.fault = SiteFault::duplicate;
      return;
    }
    slot[at] = static_cast<int32_t>(i + 1);
  }
  a.fault_row = -1;
}

template <class Key>
void strided_sites(StridedArgs& a, Key* key) {
  Scratch scratch;
  const GridReach reach(scratch, a);
  const SiteFields fields(a.out_grid);
  const int64_t pairs = a.pairs = emit_pairs(a, reach, fields, key);
  for (int64_t p = 0; p < pairs; ++p) a.order[p] = static_cast<int32_t>(p);
  radix_sort(key, a.order, pairs, fields.bits());
  a.out_rows = pairs > 0;
  for (int64_t p = 1; p < pairs; ++p) a.out_rows += key[p] != key[p - 1];
}

template <class Key>
void strided_fill(StridedArgs& a, const Key* keys) {
  const SiteFields fields(a.out_grid);
  const auto low = [](uint64_t value, int bits) {
    return static_cast<int32_t>(value & ((uint64_t{1} << bits) - 1));
  };
  // Backwards: where sites repeat (possible below validation level "cheap") the lowest row is written last.
  int64_t row = a.out_rows - 1;
  for (int64_t p = a.pairs - 1; p >= 0; --p) {
    if (p >= 16) prefetch(a.payload + a.order[p - 16]);
    const uint64_t key = keys[p];
    if (row < a.rows) {
      int32_t* c = a.out_coords + 4 * row;
      c[3] = low(key, fields.x);
      c[2] = low(key >> fields.x, fields.y);
      c[1] = low(key >> (fields.x + fields.y), fields.z);
      c[0] = static_cast<int32_t>(key >> (fields.x + fields.y + fields.z));
      const uint64_t payload = a.payload[a.order[p]];
      a.table[low(payload, kOffsetBits) * a.rows + row] = static_cast<int32_t>(payload >> kOffsetBits);
    }
    row -= p > 0 && keys[p - 1] != key;
  }
}

}  // namespace

void rulebook_strided_count(StridedArgs& a) {
  Scratch scratch;
  a.fault = SiteFault::none;
  a.fault_row = -1;
  a.pairs = 0;
  if (a.validate) {
    find_fault(scratch, a);
    if (a.fault != SiteFault::none) return;
  }
  const GridReach reach(scratch, a);
  a.wide = SiteFields(a.out_grid).bits() > 32;
  a.pairs = count_pairs(a, reach) + reach.x.most;
}

void rulebook_strided_sites(StridedArgs& a) {
  if (a.wide) {
    strided_sites(a, static_cast<uint64_t*>(a.key));
  } else {
    strided_sites(a, static_cast<uint32_t*>(a.key));
  }
}

void rulebook_strided_fill(StridedArgs& a) {
  const int64_t* kernel = a.geometry.kernel;
  fill_bytes(a.table, 0xff, static_cast<size_t>(kernel[0] * kernel[1] * kernel[2] * a.rows) * sizeof(int32_t));
  if (a.wide) {
    strided_fill(a, static_cast<const uint64_t*>(a.key));
  } else {
    strided_fill(a, static_cast<const uint32_t*>(a.key));
  }
}

void rulebook_invert(InvertArgs& a) {
  a.bad = false;
  fill_bytes(a.inverse, 0xff, static_cast<size_t>(a.offsets * a.in_rows) * sizeof(int32_t));
  for (int64_t k = 0; k < a.offsets; ++k) {
    const int32_t* from = a.table + k * a.out_rows;
    int32_t* to = a.inverse + k * a.in_rows;
    for (int64_t o = 0; o < a.out_rows; ++o) {
      if (from[o] < 0) continue;
      if (from[o] >= a.in_rows) {
        a.bad = true;
        return;
      }
      to[from[o]] = static_cast<int32_t>(o);
    }
  }
}

TENFOLD_END
