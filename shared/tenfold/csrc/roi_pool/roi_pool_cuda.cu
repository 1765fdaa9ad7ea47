// Pools over the points of boxes. Slots are a gather; the grid sorts the listed points by (box, cell), stable, so that a
// thread for each cell and channel sees its points in ascending order and stops at the cap.
#include "roi_pool/roi_pool.h"

#include "common/device_check.h"
#include "common/device_chosen.h"
#include "common/device_segments.h"
#include "roi_pool/cells.h"
#include "roi_pool/enlarge.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
struct Enlarge {
  const T* boxes;
  T by[3];
  T* to;
  __device__ void operator()(int64_t i) const {
    const T* b = boxes + 7 * i;
    const bool full = b[3] > 0 && b[4] > 0 && b[5] > 0;
    for (int c = 0; c < 7; ++c) to[7 * i + c] = full && c >= 3 && c < 6 ? rn_add(b[c], by[c - 3]) : b[c];
  }
};

// ---- slots

template <class T>
__device__ __forceinline__ int64_t first_row(const RoiPointArgs<T>& a, int64_t box) {
  return a.boxes_per_element > 0 ? box / a.boxes_per_element * a.points_per_element : 0;
}

template <class T>
struct FillSlots {
  RoiPointArgs<T> a;
  __device__ void operator()(int64_t at) const {
    const int64_t width = 3 + a.channels, c = at % width, j = at / width % a.k, box = at / width / a.k;
    const int64_t stored = a.count[box] < a.k ? a.count[box] : a.k;
    T value = T(0);
    if (stored > 0) {
      const int64_t row = first_row(a, box) + a.point[box * a.k + j % stored];
      value = c < 3 ? a.points[3 * row + c] : a.feats[row * a.channels + c - 3];
    }
    a.pooled[at] = value;
  }
};

template <class T>
struct SlotKey {
  RoiPointArgs<T> a;
  uint32_t* key;
  __device__ void operator()(int64_t e) const {
    const int64_t box = e / a.k, j = e % a.k;
    int64_t row = a.rows;
    if (j < a.count[box]) row = first_row(a, box) + a.point[e];
    key[e] = static_cast<uint32_t>(row >= 0 && row < a.rows ? row : a.rows);
  }
};

template <class T>
struct SlotGradient {
  RoiPointArgs<T> a;
  Segments segments;
  __device__ void operator()(int64_t at) const {
    const int64_t row = at / a.channels, c = at % a.channels, width = 3 + a.channels;
    T sum = T(0);
    for (int32_t s = segments.begin[row]; s < segments.begin[row + 1]; ++s) {
      const int64_t e = segments.row[s], box = e / a.k, j = e % a.k;
      const int64_t stored = a.count[box] < a.k ? a.count[box] : a.k;
      T total = a.grad[e * width + 3 + c];
      for (int64_t again = j + stored; again < a.k; again += stored)
        total = rn_add(total, a.grad[(box * a.k + again) * width + 3 + c]);
      sum = rn_add(sum, total);
    }
    a.grad_feats[at] = sum;
  }
};

template <class T>
void point_backward(RoiPointArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  if (a.rows * a.channels == 0) return;
  const int64_t entries = a.boxes * a.k;
  auto* key = stream.scratch<uint32_t>(entries);
  each("roi_slot_key", stream, entries, SlotKey<T>{a, key});
  each("roi_point_backward", stream, a.rows * a.channels,
       SlotGradient<T>{a, make_segments(stream, key, entries, a.rows)});
}

// ---- grid

// The (box, cell) of every listed point.
template <class T>
struct CellKey {
  RoiGridArgs<T> a;
  uint32_t* key;
  __device__ void operator()(int64_t i) const {
    int64_t low = 0, high = a.boxes;  // the last box that begins at or before i, and has points
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (a.begin[middle] <= i)
        low = middle;
      else
        high = middle;
    }
    const CellFinder<T> cell_of(a.rois + 7 * low, a.grid);
    const int64_t cells = a.grid[0] * a.grid[1] * a.grid[2];
    key[i] = static_cast<uint32_t>(low * cells + cell_of(a.points + 3 * int64_t{a.point[i]}));
  }
};

template <class T>
Segments points_by_cell(const RoiGridArgs<T>& a, const Stream& stream, int64_t& listed, uint32_t*& key) {
  const int64_t cells = a.boxes * a.grid[0] * a.grid[1] * a.grid[2];
  listed = read_back(stream, a.begin + a.boxes);
  if (cells >= (int64_t{1} << 31) || listed >= (int64_t{1} << 31))
    throw std::runtime_error("[tenfold:ValueError]roi_grid_pool3d: grid: expected fewer than 2^31 cells on CUDA");
  key = stream.scratch<uint32_t>(listed);
  each("roi_cell_key", stream, listed, CellKey<T>{a, key});
  return make_segments(stream, key, listed, cells);
}

template <class T>
struct PoolCell {
  RoiGridArgs<T> a;
  Segments segments;  // of listed points
  __device__ void operator()(int64_t at) const {
    const int64_t cell = at / a.channels, c = at % a.channels;
    const int64_t begin = segments.begin[cell], all = segments.begin[cell + 1] - begin;
    const int64_t n = all < a.max_points ? all : a.max_points;
    T value = T(0);
    int32_t who = -1;
    for (int64_t k = 0; k < n; ++k) {
      const int32_t row = a.point[segments.row[begin + k]];
      const T v = a.feats[row * a.channels + c];
      if (!a.maximum) {
        value = k == 0 ? v : rn_add(value, v);
      } else if (k == 0 || ((v > value || v != v) && value == value)) {
        value = v;
        who = row;
      }
    }
    if (!a.maximum && n > 1) value = rn_div(value, static_cast<T>(n));
    a.pooled[at] = value;
    if (a.arg != nullptr) a.arg[at] = who;
  }
};

template <class T>
void grid_pool(RoiGridArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const int64_t results = a.boxes * a.grid[0] * a.grid[1] * a.grid[2] * a.channels;
  if (results == 0) return;
  int64_t listed;
  uint32_t* key;
  const Segments segments = points_by_cell(a, stream, listed, key);
  each("roi_grid_pool", stream, results, PoolCell<T>{a, segments});
}

// The row of the point behind every listed entry that its cell stores; `rows` for the others.
template <class T>
struct StoredKey {
  RoiGridArgs<T> a;
  Segments by_cell;
  const uint32_t* cell;
  uint32_t* key;
  __device__ void operator()(int64_t place) const {
    const int32_t entry = by_cell.row[place];
    const bool stored = place - by_cell.begin[cell[entry]] < a.max_points;
    key[entry] = static_cast<uint32_t>(stored ? a.point[entry] : a.rows);
  }
};

template <class T>
struct AverageGradient {
  RoiGridArgs<T> a;
  Segments by_cell, by_row;
  const uint32_t* cell;
  __device__ void operator()(int64_t at) const {
    const int64_t row = at / a.channels, c = at % a.channels;
    T sum = T(0);
    for (int32_t s = by_row.begin[row]; s < by_row.begin[row + 1]; ++s) {
      const uint32_t p = cell[by_row.row[s]];
      const int64_t all = by_cell.begin[p + 1] - by_cell.begin[p];
      const T n = static_cast<T>(all < a.max_points ? all : a.max_points);
      sum = rn_add(sum, rn_div(a.grad[p * a.channels + c], n));
    }
    a.grad_feats[at] = sum;
  }
};

template <class T>
void grid_backward(RoiGridArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  if (a.rows * a.channels == 0) return;
  if (a.maximum) {
    const int64_t pooled = a.boxes * a.grid[0] * a.grid[1] * a.grid[2];
    return sum_chosen(stream, a.grad, a.arg_in, 1, pooled, a.rows, a.channels, a.grad_feats);
  }
  int64_t listed;
  uint32_t* cell;
  const Segments by_cell = points_by_cell(a, stream, listed, cell);
  auto* key = stream.scratch<uint32_t>(listed);
  each("roi_stored_key", stream, listed, StoredKey<T>{a, by_cell, cell, key});
  const Segments by_row = make_segments(stream, key, listed, a.rows);
  each("roi_grid_backward", stream, a.rows * a.channels, AverageGradient<T>{a, by_cell, by_row, cell});
}

template <class T>
void point_pool(RoiPointArgs<T>& a) {
  each("roi_point_pool", *a.parallel.stream, a.boxes * a.k * (3 + a.channels), FillSlots<T>{a});
}

}  // namespace

void enlarge_boxes(const Stream& stream, const float* boxes, int64_t n, const float* by, float* to) {
  each("enlarge_boxes", stream, n, Enlarge<float>{boxes, {by[0], by[1], by[2]}, to});
}
void enlarge_boxes(const Stream& stream, const double* boxes, int64_t n, const double* by, double* to) {
  each("enlarge_boxes", stream, n, Enlarge<double>{boxes, {by[0], by[1], by[2]}, to});
}

void roi_point_pool_f32(RoiPointArgs<float>& args) { point_pool(args); }
void roi_point_pool_f64(RoiPointArgs<double>& args) { point_pool(args); }
void roi_point_pool_backward_f32(RoiPointArgs<float>& args) { point_backward(args); }
void roi_point_pool_backward_f64(RoiPointArgs<double>& args) { point_backward(args); }
void roi_grid_pool_f32(RoiGridArgs<float>& args) { grid_pool(args); }
void roi_grid_pool_f64(RoiGridArgs<double>& args) { grid_pool(args); }
void roi_grid_pool_backward_f32(RoiGridArgs<float>& args) { grid_backward(args); }
void roi_grid_pool_backward_f64(RoiGridArgs<double>& args) { grid_backward(args); }

}  // namespace tenfold::cuda
