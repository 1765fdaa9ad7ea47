// Rulebooks: sites sorted by key once, neighbours found by binary search; strided sites by sorting every (output site,
// input row, offset) and a scan over the first of each site. No dense grid.
#include "sparse_conv/rulebook.h"

#include "common/device_check.h"
#include "common/device_scan.h"
#include "common/device_sort.h"

namespace tenfold::cuda {
namespace {

using namespace device;

// Sites in lexicographic order (b, z, y, x) as one number; `outside` for a site that is not in the grid.
struct SiteKeys {
  SiteGrid grid;
  __device__ bool in(int64_t b, int64_t z, int64_t y, int64_t x) const {
    return b >= 0 && b < grid.batch && z >= 0 && z < grid.shape[0] && y >= 0 && y < grid.shape[1] && x >= 0 &&
           x < grid.shape[2];
  }
  __device__ uint64_t key(int64_t b, int64_t z, int64_t y, int64_t x) const {
    return static_cast<uint64_t>(((b * grid.shape[0] + z) * grid.shape[1] + y) * grid.shape[2] + x);
  }
  uint64_t outside() const {
    return static_cast<uint64_t>(grid.batch) * static_cast<uint64_t>(grid.shape[0]) *
           static_cast<uint64_t>(grid.shape[1]) * static_cast<uint64_t>(grid.shape[2]);
  }
};

struct SiteKey {
  const int32_t* coords;
  SiteKeys keys;
  uint64_t outside;
  uint64_t* key;
  __device__ void operator()(int64_t i) const {
    const int32_t* c = coords + 4 * i;
    key[i] = keys.in(c[0], c[1], c[2], c[3]) ? keys.key(c[0], c[1], c[2], c[3]) : outside;
  }
};

struct SiteOutside {
  const uint64_t* key;
  uint64_t outside;
  __device__ bool operator()(int64_t i) const { return key[i] == outside; }
};

// The smallest row that repeats another one's site.
struct SiteRepeated {
  Sorted<uint64_t> sorted;
  uint64_t outside;
  unsigned long long* first;
  __device__ void operator()(int64_t q) const {
    if (q > 0 && sorted.key[q] != outside && sorted.key[q] == sorted.key[q - 1])
      atomicMin(first, static_cast<unsigned long long>(sorted.row[q]));
  }
};

template <class Args>
bool sites_fine(Args& a, const Stream& stream, const uint64_t* key, const Sorted<uint64_t>& sorted, uint64_t outside) {
  a.fault = SiteFault::none;
  a.fault_row = -1;
  if (!a.validate) return true;
  a.fault_row = first_bad(stream, a.n, SiteOutside{key, outside});
  if (a.fault_row >= 0) a.fault = SiteFault::out_of_range;
  auto* first = stream.scratch<unsigned long long>(1);
  fill_device(stream, first, 0xff, 8);
  each("site_repeated", stream, a.n, SiteRepeated{sorted, outside, first});
  const unsigned long long repeated = read_back(stream, first);
  if (repeated != ~0ull && (a.fault_row < 0 || static_cast<int64_t>(repeated) < a.fault_row)) {
    a.fault = SiteFault::duplicate;
    a.fault_row = static_cast<int64_t>(repeated);
  }
  return a.fault == SiteFault::none;
}

struct Neighbour {
  SubmanifoldArgs a;
  SiteKeys keys;
  Sorted<uint64_t> sorted;
  __device__ void operator()(int64_t at) const {
    const int64_t o = at % a.n;
    int64_t k = at / a.n;
    const int32_t* c = a.coords + 4 * o;
    int64_t place[3];
    for (int axis = 2; axis >= 0; --axis) {
      const int64_t size = a.geometry.kernel[axis];
      place[axis] = c[1 + axis] + (k % size - (size - 1) / 2) * a.geometry.dilation[axis];
      k /= size;
    }
    int32_t row = -1;
    if (keys.in(c[0], c[1], c[2], c[3]) && keys.in(c[0], place[0], place[1], place[2])) {
      const uint64_t key = keys.key(c[0], place[0], place[1], place[2]);
      int64_t low = 0, high = a.n;
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (sorted.key[middle] < key)
          low = middle + 1;
        else
          high = middle;
      }
      if (low < a.n && sorted.key[low] == key) row = sorted.row[low];
    }
    a.table[at] = row;
  }
};

// One (input row, offset): the output site that it reaches.
struct Reach {
  StridedArgs a;
  SiteKeys in, out;
  uint64_t none;
  uint64_t* key;
  __device__ void operator()(int64_t e) const {
    const int64_t volume = a.geometry.kernel[0] * a.geometry.kernel[1] * a.geometry.kernel[2];
    const int64_t i = e / volume;
    int64_t k = e % volume;
    const int32_t* c = a.coords + 4 * i;
    bool fine = in.in(c[0], c[1], c[2], c[3]);
    int64_t place[3] = {0, 0, 0};
    for (int axis = 2; axis >= 0; --axis) {
      const int64_t size = a.geometry.kernel[axis];
      const int64_t step = c[1 + axis] + a.geometry.padding[axis] - k % size * a.geometry.dilation[axis];
      fine = fine && step >= 0 && step % a.geometry.stride[axis] == 0;
      place[axis] = step / a.geometry.stride[axis];
      k /= size;
    }
    fine = fine && out.in(c[0], place[0], place[1], place[2]);
    key[e] = fine ? out.key(c[0], place[0], place[1], place[2]) : none;
  }
};

// Of rows that repeat a site only the first takes part, as on the CPU.
struct DropRepeated {
  Sorted<uint64_t> sorted;
  uint64_t outside;
  int64_t volume;
  uint64_t none;
  uint64_t* key;
  __device__ void operator()(int64_t q) const {
    if (q == 0 || sorted.key[q] == outside || sorted.key[q] != sorted.key[q - 1]) return;
    for (int64_t k = 0; k < volume; ++k) key[int64_t{sorted.row[q]} * volume + k] = none;
  }
};

struct FirstOfSite {
  Sorted<uint64_t> sorted;
  uint64_t none;
  int32_t* first;
  __device__ void operator()(int64_t q) const {
    first[q] = sorted.key[q] != none && (q == 0 || sorted.key[q] != sorted.key[q - 1]) ? 1 : 0;
  }
};

// Leaves for the last step: sorted keys, entries, and the output row of each.
struct KeepSorted {
  Sorted<uint64_t> sorted;
  const int32_t* before;  // (pairs + 1,)
  uint64_t* key;
  uint64_t* row;
  int32_t* order;
  __device__ void operator()(int64_t q) const {
    key[q] = sorted.key[q];
    row[q] = static_cast<uint64_t>(before[q + 1] - 1);
    order[q] = sorted.row[q];
  }
};

struct WriteStrided {
  StridedArgs a;
  uint64_t none;
  __device__ void operator()(int64_t q) const {
    const uint64_t key = static_cast<const uint64_t*>(a.key)[q];
    if (key == none) return;
    const int64_t volume = a.geometry.kernel[0] * a.geometry.kernel[1] * a.geometry.kernel[2];
    const int64_t o = static_cast<int64_t>(a.payload[q]), e = a.order[q];
    if (o >= a.rows) return;
    a.table[e % volume * a.rows + o] = static_cast<int32_t>(e / volume);
    if (q > 0 && a.payload[q - 1] == a.payload[q]) return;
    int64_t rest = static_cast<int64_t>(key);
    for (int axis = 2; axis >= 0; --axis) {
      a.out_coords[4 * o + 1 + axis] = static_cast<int32_t>(rest % a.out_grid.shape[axis]);
      rest /= a.out_grid.shape[axis];
    }
    a.out_coords[4 * o] = static_cast<int32_t>(rest);
  }
};

struct Invert {
  InvertArgs a;
  __device__ void operator()(int64_t at) const {
    const int32_t row = a.table[at];
    if (row < 0 || row >= a.in_rows) return;
    const int64_t k = at / a.out_rows;
    atomicMax(a.inverse + k * a.in_rows + row, static_cast<int32_t>(at % a.out_rows));
  }
};

struct SortedSites {
  const uint64_t* key;
  Sorted<uint64_t> sorted;
  uint64_t outside;
};

SortedSites sort_sites(const Stream& stream, const int32_t* coords, int64_t n, const SiteGrid& grid) {
  const SiteKeys keys{grid};
  const uint64_t outside = keys.outside();
  auto* key = stream.scratch<uint64_t>(n);
  each("site_key", stream, n, SiteKey{coords, keys, outside, key});
  return {key, radix_sort<uint64_t>(stream, key, nullptr, n, bits_for(outside)), outside};
}

int64_t volume_of(const ConvGeometry& g) { return g.kernel[0] * g.kernel[1] * g.kernel[2]; }

}  // namespace

void rulebook_submanifold(SubmanifoldArgs& a) {
  const Stream& stream = *a.parallel.stream;
  const SortedSites sites = sort_sites(stream, a.coords, a.n, a.grid);
  if (!sites_fine(a, stream, sites.key, sites.sorted, sites.outside)) return;
  each("rulebook_submanifold", stream, volume_of(a.geometry) * a.n, Neighbour{a, SiteKeys{a.grid}, sites.sorted});
}

void rulebook_strided_count(StridedArgs& a) {
  const Stream& stream = *a.parallel.stream;
  a.fault = SiteFault::none;
  a.fault_row = -1;
  a.wide = true;
  a.pairs = a.n * volume_of(a.geometry);  // every (input, offset): a bound that costs no synchronisation
  if (!a.validate) return;
  const SortedSites sites = sort_sites(stream, a.coords, a.n, a.grid);
  sites_fine(a, stream, sites.key, sites.sorted, sites.outside);
}

void rulebook_strided_sites(StridedArgs& a) {
  const Stream& stream = *a.parallel.stream;
  const SortedSites sites = sort_sites(stream, a.coords, a.n, a.grid);
  const uint64_t none = SiteKeys{a.out_grid}.outside();
  auto* key = stream.scratch<uint64_t>(a.pairs);
  each("rulebook_reach", stream, a.pairs, Reach{a, SiteKeys{a.grid}, SiteKeys{a.out_grid}, none, key});
  each("rulebook_repeated", stream, a.n, DropRepeated{sites.sorted, sites.outside, volume_of(a.geometry), none, key});
  const Sorted<uint64_t> sorted = radix_sort<uint64_t>(stream, key, nullptr, a.pairs, bits_for(none));
  auto* before = stream.scratch<int32_t>(a.pairs + 1);
  each("rulebook_first", stream, a.pairs, FirstOfSite{sorted, none, before});
  exclusive_scan<int32_t>(stream, before, a.pairs, before, before + a.pairs);
  each("rulebook_keep", stream, a.pairs,
       KeepSorted{sorted, before, static_cast<uint64_t*>(a.key), a.payload, a.order});
  a.out_rows = 0;
  if (a.out_rows_there != nullptr)
    copy_one(stream, before + a.pairs, a.out_rows_there);
  else
    a.out_rows = read_back(stream, before + a.pairs);
}

void rulebook_strided_fill(StridedArgs& a) {
  const Stream& stream = *a.parallel.stream;
  fill_device(stream, a.table, 0xff, volume_of(a.geometry) * a.rows * 4);
  each("rulebook_strided", stream, a.pairs, WriteStrided{a, SiteKeys{a.out_grid}.outside()});
}

void rulebook_invert(InvertArgs& a) {
  const Stream& stream = *a.parallel.stream;
  a.bad = false;
  fill_device(stream, a.inverse, 0xff, a.offsets * a.in_rows * 4);
  each("rulebook_invert", stream, a.offsets * a.out_rows, Invert{a});
}

}  // namespace tenfold::cuda
