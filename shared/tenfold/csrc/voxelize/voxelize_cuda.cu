// Voxels without a race: points are sorted by (batch, cell), stable, so the points of a cell are neighbours in ascending
// order. The first of each opens the voxel; a scan over those flags in the order of points numbers voxels first come.
#include "voxelize/voxelize.h"

#include "common/device_check.h"
#include "common/device_scan.h"
#include "common/device_sort.h"

namespace tenfold::cuda {
namespace {

using namespace device;

__device__ __forceinline__ int64_t element_of(const int64_t* offsets, int64_t batch, int64_t i) {
  int64_t low = 0, high = batch;  // the last element that begins at or before i
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (offsets[middle] <= i)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// (batch, z, y, x) in lexicographic order; `none` for a point in no cell.
template <class T>
struct PointKey {
  const T* points;
  int64_t channels;
  VoxelGrid<T> grid;
  const int64_t* offsets;
  int64_t batch;
  uint64_t none;
  uint64_t* key;
  __device__ void operator()(int64_t i) const {
    int64_t cell[3] = {0, 0, 0};
    bool in = true;
    for (int a = 0; a < 3; ++a) {
      const T at = voxel_cell(points[i * channels + a], grid.lower[a], grid.size[a]);
      // As floats first: no integer holds NaN or what is far away. Grids below 2^31 cells compare exactly in double.
      const double d = static_cast<double>(at);
      in = in && d >= 0 && d < static_cast<double>(grid.cells[a]);
      cell[a] = in ? static_cast<int64_t>(d) : 0;
    }
    const auto element = static_cast<uint64_t>(element_of(offsets, batch, i));
    const uint64_t place = (static_cast<uint64_t>(cell[2]) * static_cast<uint64_t>(grid.cells[1]) +
                            static_cast<uint64_t>(cell[1])) * static_cast<uint64_t>(grid.cells[0]) +
                           static_cast<uint64_t>(cell[0]);
    const uint64_t cells = static_cast<uint64_t>(grid.cells[0]) * static_cast<uint64_t>(grid.cells[1]) *
                           static_cast<uint64_t>(grid.cells[2]);
    key[i] = in ? element * cells + place : none;
  }
};

// Marks, in the order of the sort and in the order of the points, where a cell has its first point.
struct MarkFirst {
  Sorted<uint64_t> sorted;
  uint64_t none;
  int32_t* head;   // sorted order
  int32_t* opens;  // order of points
  __device__ void operator()(int64_t q) const {
    const bool first = sorted.key[q] != none && (q == 0 || sorted.key[q] != sorted.key[q - 1]);
    head[q] = first ? 1 : 0;
    opens[sorted.row[q]] = first ? 1 : 0;
  }
};

// What later kernels share. Cells are numbered in sorted order, voxels as the caller wants them.
struct Cells {
  Sorted<uint64_t> sorted;
  int64_t n;
  uint64_t none, per_element;  // cells of an element
  const int64_t* offsets;
  int64_t batch;
  const int32_t* before;     // (n + 1,) cells before each sorted place
  const int32_t* rank;       // (n + 1,) cells opened before each point
  int32_t* begin;            // (cells + 1,) first sorted place of each cell
  int32_t* voxel_base;       // (batch + 1,) first voxel of each element
  int32_t* cell_of_voxel;    // (n,)
  int64_t max_voxels, max_points;
  bool in_cell_order;

  __device__ int64_t opened_before(int64_t element) const { return rank[offsets[element]]; }
  // The voxel of a cell, or -1 where the cap left none.
  __device__ int32_t voxel(int64_t cell) const {
    if (in_cell_order) return static_cast<int32_t>(cell);
    const int32_t first = sorted.row[begin[cell]];
    const int64_t element = element_of(offsets, batch, first);
    const int64_t number = rank[first] - opened_before(element);
    return number < max_voxels ? static_cast<int32_t>(voxel_base[element] + number) : -1;
  }
};

struct FindCells {
  Cells c;
  __device__ void operator()(int64_t q) const {  // q <= n
    const bool end = q == c.n || c.sorted.key[q] == c.none;
    const bool before_end = q > 0 && c.sorted.key[q - 1] != c.none;
    if (!end && (q == 0 || c.sorted.key[q] != c.sorted.key[q - 1])) c.begin[c.before[q]] = static_cast<int32_t>(q);
    if (end && (q == 0 || before_end)) c.begin[c.before[q]] = static_cast<int32_t>(q);
  }
};

// One thread: batches are few.
struct CountVoxels {
  Cells c;
  __device__ void operator()(int64_t) const {
    int64_t base = 0;
    for (int64_t b = 0; b < c.batch; ++b) {
      c.voxel_base[b] = static_cast<int32_t>(base);
      const int64_t opened = c.rank[c.offsets[b + 1]] - c.rank[c.offsets[b]];
      base += opened < c.max_voxels ? opened : c.max_voxels;
    }
    c.voxel_base[c.batch] = static_cast<int32_t>(base);
  }
};

struct NameVoxels {
  Cells c;
  __device__ void operator()(int64_t cell) const {
    if (cell >= c.before[c.n]) return;
    const int32_t voxel = c.voxel(cell);
    if (voxel >= 0) c.cell_of_voxel[voxel] = static_cast<int32_t>(cell);
  }
};

struct NamePoints {
  Cells c;
  int32_t* point2voxel;
  unsigned long long* dropped;
  __device__ void operator()(int64_t q) const {
    const int32_t row = c.sorted.row[q];
    int32_t voxel = -1;
    if (c.sorted.key[q] == c.none) {
      atomicAdd(dropped, 1ull);
    } else {
      const int64_t cell = c.before[q + 1] - 1;
      voxel = c.voxel(cell);
      if (voxel < 0)
        atomicAdd(dropped + 1, 1ull);
      else if (q - c.begin[cell] >= c.max_points)
        atomicAdd(dropped + 2, 1ull);
    }
    point2voxel[row] = voxel;
  }
};

struct WriteCoords {
  Cells c;
  int64_t cells[3];  // x y z
  int32_t* coords;
  int32_t* num_points;
  __device__ void operator()(int64_t v) const {
    if (v >= c.voxel_base[c.batch]) {
      for (int k = 0; k < 4; ++k) coords[4 * v + k] = -1;
      num_points[v] = 0;
      return;
    }
    const int64_t cell = c.cell_of_voxel[v];
    const int64_t count = c.begin[cell + 1] - c.begin[cell];
    num_points[v] = static_cast<int32_t>(count < c.max_points ? count : c.max_points);
    const uint64_t key = c.sorted.key[c.begin[cell]];
    uint64_t place = key % c.per_element;
    coords[4 * v] = static_cast<int32_t>(key / c.per_element);
    coords[4 * v + 3] = static_cast<int32_t>(place % static_cast<uint64_t>(cells[0]));
    place /= static_cast<uint64_t>(cells[0]);
    coords[4 * v + 2] = static_cast<int32_t>(place % static_cast<uint64_t>(cells[1]));
    coords[4 * v + 1] = static_cast<int32_t>(place / static_cast<uint64_t>(cells[1]));
  }
};

template <class T>
struct WriteVoxels {
  Cells c;
  const T* points;
  int64_t channels;
  bool mean;
  T* voxels;
  __device__ void operator()(int64_t at) const {
    const int64_t column = at % channels, slots = mean ? 1 : c.max_points;
    const int64_t v = at / channels / slots, slot = at / channels % slots;
    T value = T(0);
    if (v < c.voxel_base[c.batch]) {
      const int64_t cell = c.cell_of_voxel[v], begin = c.begin[cell];
      int64_t count = c.begin[cell + 1] - begin;
      count = count < c.max_points ? count : c.max_points;
      if (mean) {
        for (int64_t k = 0; k < count; ++k) value = rn_add(value, points[c.sorted.row[begin + k] * channels + column]);
        value = rn_div(value, static_cast<T>(count));
      } else if (slot < count) {
        value = points[c.sorted.row[begin + slot] * channels + column];
      }
    }
    voxels[at] = value;
  }
};

// Points of voxels that the outputs have no rows for.
struct LeaveOut {
  int32_t* point2voxel;
  int64_t rows;
  __device__ void operator()(int64_t i) const {
    if (point2voxel[i] >= rows) point2voxel[i] = -1;
  }
};

// A few numbers travel in the arguments of a kernel: a graph that is captured keeps them.
constexpr int64_t kFew = 64;
struct WriteFew {
  int64_t value[kFew];
  int64_t* to;
  __device__ void operator()(int64_t i) const { to[i] = value[i]; }
};

const int64_t* offsets_there(const Stream& stream, const int64_t* offsets, int64_t count) {
  auto* to = stream.scratch<int64_t>(count);
  if (count > kFew) {
    copy_to_device(stream, to, offsets, 8 * count);
    return to;
  }
  WriteFew few{};
  for (int64_t i = 0; i < count; ++i) few.value[i] = offsets[i];
  few.to = to;
  each("voxel_offsets", stream, count, few);
  return to;
}

template <class T>
void voxelize(VoxelArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  a.bad_row = -1;
  if (a.validate) a.bad_row = first_not_finite(stream, a.points, a.n, a.channels, 3);
  if (a.bad_row >= 0) return;
  const auto per_element = static_cast<uint64_t>(a.grid.cells[0]) * static_cast<uint64_t>(a.grid.cells[1]) *
                           static_cast<uint64_t>(a.grid.cells[2]);
  uint64_t none;
  if (__builtin_mul_overflow(per_element, static_cast<uint64_t>(a.batch), &none) || none >= uint64_t{1} << 63)
    throw std::runtime_error("[tenfold:ValueError]voxelize: grid: expected fewer than 2^63 cells in the whole batch on CUDA");
  const int64_t* offsets = offsets_there(stream, a.offsets, a.batch + 1);
  auto* key = stream.scratch<uint64_t>(a.n);
  each("voxel_point_key", stream, a.n, PointKey<T>{a.points, a.channels, a.grid, offsets, a.batch, none, key});
  Cells c{};
  c.sorted = radix_sort<uint64_t>(stream, key, nullptr, a.n, bits_for(none));
  c.n = a.n;
  c.none = none;
  c.per_element = per_element;
  c.offsets = offsets;
  c.batch = a.batch;
  auto* before = stream.scratch<int32_t>(a.n + 1);
  auto* rank = stream.scratch<int32_t>(a.n + 1);
  each("voxel_first", stream, a.n, MarkFirst{c.sorted, none, before, rank});
  exclusive_scan<int32_t>(stream, before, a.n, before, before + a.n);
  exclusive_scan<int32_t>(stream, rank, a.n, rank, rank + a.n);
  c.before = before;
  c.rank = rank;
  c.begin = stream.scratch<int32_t>(a.n + 1);
  c.voxel_base = stream.scratch<int32_t>(a.batch + 1);
  c.cell_of_voxel = stream.scratch<int32_t>(a.n);
  c.max_voxels = a.max_voxels;
  c.max_points = a.max_points;
  c.in_cell_order = a.sorted;
  each("voxel_cells", stream, a.n + 1, FindCells{c});
  each("voxel_count", stream, 1, CountVoxels{c});
  each("voxel_names", stream, a.n, NameVoxels{c});
  auto* dropped = a.dropped_there != nullptr ? reinterpret_cast<unsigned long long*>(a.dropped_there)
                                             : stream.scratch<unsigned long long>(3);
  fill_device(stream, dropped, 0, 24);
  each("voxel_points", stream, a.n, NamePoints{c, a.point2voxel, dropped});
  a.count = 0;
  if (a.count_there != nullptr) {
    copy_one(stream, c.voxel_base + a.batch, a.count_there);
  } else {  // the number of voxels sizes the results: the one thing the host waits for
    a.count = read_back(stream, c.voxel_base + a.batch);
    copy_to_host(stream, a.dropped, dropped, 24);
  }
  a.allocate(a, a.context);
  each("voxel_coords", stream, a.rows,
       WriteCoords{c, {a.grid.cells[0], a.grid.cells[1], a.grid.cells[2]}, a.coords, a.num_points});
  if (!a.copy) {
    const bool all_fit = a.rows >= (a.count_there != nullptr ? a.n : a.count);
    if (!all_fit) each("voxel_left_out", stream, a.n, LeaveOut{a.point2voxel, a.rows});
    return;
  }
  const int64_t values = a.rows * a.channels * (a.mean ? 1 : a.max_points);
  each("voxel_write", stream, values, WriteVoxels<T>{c, a.points, a.channels, a.mean, a.voxels});
}

// ---- gradient

struct VoxelKey {
  const int32_t* point2voxel;
  int64_t voxels;
  uint32_t* key;
  __device__ void operator()(int64_t i) const {
    const int64_t v = point2voxel[i];
    key[i] = static_cast<uint32_t>(v >= 0 && v < voxels ? v : voxels);
  }
};

struct VoxelBegin {
  Sorted<uint32_t> sorted;
  int64_t n, voxels;
  int32_t* begin;
  int32_t* place;  // of each point in the sort
  __device__ void operator()(int64_t q) const {  // q <= n
    const int64_t from = q == 0 ? 0 : int64_t{sorted.key[q - 1]} + 1;
    int64_t to = q == n ? voxels : int64_t{sorted.key[q]};
    if (to > voxels) to = voxels;
    for (int64_t v = from; v <= to; ++v) begin[v] = static_cast<int32_t>(q);
    if (q < n) place[sorted.row[q]] = static_cast<int32_t>(q);
  }
};

template <class T>
struct PointGradient {
  VoxelBackwardArgs<T> a;
  const int32_t* begin;
  const int32_t* place;
  __device__ void operator()(int64_t at) const {
    const int64_t i = at / a.channels, c = at % a.channels, v = a.point2voxel[i];
    T value = T(0);
    if (v >= 0 && v < a.voxels) {
      const int64_t slot = place[i] - begin[v];
      const int64_t count = begin[v + 1] - begin[v], stored = count < a.max_points ? count : a.max_points;
      if (slot < stored)
        value = a.mean ? rn_div(a.grad[v * a.channels + c], static_cast<T>(stored))
                       : a.grad[(v * a.max_points + slot) * a.channels + c];
    }
    a.grad_points[at] = value;
  }
};

template <class T>
void backward(VoxelBackwardArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  auto* key = stream.scratch<uint32_t>(a.n);
  each("voxel_key", stream, a.n, VoxelKey{a.point2voxel, a.voxels, key});
  const Sorted<uint32_t> sorted =
      radix_sort<uint32_t>(stream, key, nullptr, a.n, bits_for(static_cast<uint64_t>(a.voxels)));
  auto* begin = stream.scratch<int32_t>(a.voxels + 1);
  auto* place = stream.scratch<int32_t>(a.n);
  each("voxel_begin", stream, a.n + 1, VoxelBegin{sorted, a.n, a.voxels, begin, place});
  each("voxel_backward", stream, a.n * a.channels, PointGradient<T>{a, begin, place});
}

}  // namespace

void voxelize_f32(VoxelArgs<float>& args) { voxelize(args); }
void voxelize_f64(VoxelArgs<double>& args) { voxelize(args); }
void voxel_backward_f32(VoxelBackwardArgs<float>& args) { backward(args); }
void voxel_backward_f64(VoxelBackwardArgs<double>& args) { backward(args); }

}  // namespace tenfold::cuda
