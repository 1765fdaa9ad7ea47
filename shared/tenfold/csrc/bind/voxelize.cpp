#include "voxelize/voxelize.h"

#include <chrono>
#include <vector>

#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kIndexLimit = int64_t{1} << 31;

// Odd and different in every process, so that no stored input collides on purpose. Results do not depend on it.
uint64_t hash_multiplier() {
  static const uint64_t multiplier = [] {
    uint64_t x = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    x ^= reinterpret_cast<uintptr_t>(&x);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return (x ^ (x >> 31)) | 1;
  }();
  return multiplier;
}

struct Request {
  const char* op;
  Tensor points;  // (N, C) contiguous
  std::vector<int64_t> offsets;
  std::vector<double> size;
  std::vector<double> lower;
  std::vector<int64_t> cells;
  int64_t max_points;
  int64_t max_voxels;
  bool mean;
  bool sorted;
  bool validate;
};

void check(const Request& r, bool ok, const char* message) {
  if (!ok) value_error(std::string(r.op) + ": " + message);
}

std::vector<int64_t> read_offsets(const Request& r, const std::optional<Tensor>& offsets) {
  const int64_t n = r.points.size(0);
  if (!offsets.has_value()) return {0, n};
  check(r, offsets->dim() == 1 && offsets->size(0) >= 1, "offsets: expected shape (B + 1,)");
  const ScalarType dtype = offsets->scalar_type();
  check(r, dtype == ScalarType::Long || dtype == ScalarType::Int, "offsets: expected int64 or int32");
  const std::vector<int64_t> values = host_values(*offsets);
  check(r, values.front() == 0 && values.back() == n, "offsets: expected to start at 0 and to end at N");
  for (size_t i = 1; i < values.size(); ++i)
    check(r, values[i] >= values[i - 1], "offsets: decrease; expected a non-decreasing list");
  return values;
}

void check_request(const Request& r) {
  check(r, r.points.dim() == 2 && r.points.size(1) >= 3, "points: expected shape (N, C >= 3)");
  const ScalarType dtype = r.points.scalar_type();
  check(r, dtype == ScalarType::Float || dtype == ScalarType::Double, "points: expected float32 or float64");
  check(r, r.points.size(0) < kIndexLimit, "points: expected fewer than 2^31 rows");
  check(r, r.size.size() == 3, "voxel_size: expected 3 numbers");
  check(r, r.lower.size() == 3, "point_range: expected 6 numbers");
  check(r, r.cells.size() == 3, "grid: expected 3 numbers");
  int64_t total = 1;
  for (const int64_t c : r.cells) {
    check(r, c >= 1 && c < kIndexLimit, "grid: expected from 1 to 2^31 - 1 cells along every axis");
    check(r, !__builtin_mul_overflow(total, c, &total), "grid: expected fewer than 2^63 cells");
  }
  check(r, r.max_points >= 1, "max_points: expected at least 1");
  check(r, r.max_voxels >= 1, "max_voxels: expected at least 1");
}

template <class T>
VoxelGrid<T> make_grid(const Request& r) {
  VoxelGrid<T> grid{};
  for (size_t axis = 0; axis < 3; ++axis) {
    grid.lower[axis] = static_cast<T>(r.lower[axis]);
    grid.size[axis] = static_cast<T>(r.size[axis]);
    grid.cells[axis] = r.cells[axis];
  }
  return grid;
}

struct Outputs {
  Tensor voxels;  // left empty by dynamic_voxelize
  Tensor coords;
  Tensor num_points;
};

template <class T>
struct Kernels;
template <>
struct Kernels<float> {
  static void voxelize(VoxelArgs<float>& a) { dispatch::voxelize_f32(a); }
  static void backward(VoxelBackwardArgs<float>& a) { dispatch::voxel_backward_f32(a); }
};
template <>
struct Kernels<double> {
  static void voxelize(VoxelArgs<double>& a) { dispatch::voxelize_f64(a); }
  static void backward(VoxelBackwardArgs<double>& a) { dispatch::voxel_backward_f64(a); }
};

// Tensors for what is counted, where they are wanted. With `count` the host need not know the number of voxels.
struct Counts {
  const Tensor* dropped;
  const Tensor* count;
};

// Runs the kernel and returns the number of voxels. `allocate(voxels)` returns the outputs, of at least so many
// rows; `copy`: the voxels themselves are wanted.
template <class T, class Allocate>
int64_t run_typed(const Request& r, int32_t* point2voxel, const Counts& counts, bool copy, Allocate allocate) {
  struct Context {
    const Request& request;
    Allocate& allocate;
  } context{r, allocate};
  VoxelArgs<T> args{};
  args.points = in<T>(r.points);
  args.n = r.points.size(0);
  args.channels = r.points.size(1);
  args.offsets = r.offsets.data();
  args.batch = static_cast<int64_t>(r.offsets.size()) - 1;
  args.grid = make_grid<T>(r);
  args.max_points = r.max_points;
  args.max_voxels = r.max_voxels;
  args.mean = r.mean;
  args.copy = copy;
  args.sorted = r.sorted;
  args.validate = r.validate;
  args.hash_multiplier = hash_multiplier();
  args.parallel = torch_parallel();
  args.point2voxel = point2voxel;
#ifdef TENFOLD_DEVICE
  args.dropped_there = counts.dropped != nullptr && counts.count != nullptr ? out<int64_t>(*counts.dropped) : nullptr;
  args.count_there = counts.count != nullptr ? out<int32_t>(*counts.count) : nullptr;
#endif
  args.context = &context;
  args.allocate = [](VoxelArgs<T>& a, void* opaque) {
    const Context& c = *static_cast<Context*>(opaque);
    check(c.request, c.request.mean || a.count == 0 || a.max_points <= (kIndexLimit - 1) / a.count,
          "max_points: expected fewer than 2^31 rows in all voxels together; mean=True has no such limit");
    const Outputs outputs = c.allocate(a.count);
    a.rows = outputs.coords.size(0);
    a.voxels = a.copy ? out<T>(outputs.voxels) : nullptr;
    a.coords = out<int32_t>(outputs.coords);
    a.num_points = out<int32_t>(outputs.num_points);
  };
  Kernels<T>::voxelize(args);
  if (args.bad_row >= 0)
    check(r, false, ("points: row " + std::to_string(args.bad_row) + " is not finite; expected finite coordinates").c_str());
  if (args.count_there != nullptr) return args.count;
  if (counts.dropped != nullptr) put_values(*counts.dropped, args.dropped, 3);
  const auto count = static_cast<int32_t>(args.count);
  if (counts.count != nullptr) put_values(*counts.count, &count, 1);
  return args.count;
}

template <class Allocate>
int64_t run(const Request& r, const Tensor& point2voxel, const Counts& counts, bool copy, Allocate allocate) {
  if (r.points.scalar_type() == ScalarType::Float)
    return run_typed<float>(r, out<int32_t>(point2voxel), counts, copy, allocate);
  return run_typed<double>(r, out<int32_t>(point2voxel), counts, copy, allocate);
}

Outputs allocate_outputs(const Request& r, int64_t rows) {
  const int64_t channels = r.points.size(1);
  const ScalarType dtype = r.points.scalar_type();
  return {r.mean ? new_tensor({rows, channels}, dtype) : new_tensor({rows, r.max_points, channels}, dtype),
          new_tensor({rows, 4}, ScalarType::Int), new_tensor({rows}, ScalarType::Int)};
}

Request make_request(const char* op, const Tensor& points, const std::optional<Tensor>& offsets,
                     std::vector<double> size, std::vector<double> lower, std::vector<int64_t> cells,
                     int64_t max_points, int64_t max_voxels, bool mean, bool sorted, bool validate) {
  Request r{op, points, {}, std::move(size), std::move(lower), std::move(cells), max_points, max_voxels, mean,
            sorted, validate};
  check_request(r);
  r.points = as_contiguous(points);
  r.offsets = read_offsets(r, offsets);
  return r;
}

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Five voxelize_op(Tensor points, std::optional<Tensor> offsets, std::vector<double> size, std::vector<double> lower,
                  std::vector<int64_t> cells, int64_t max_points, int64_t max_voxels, bool mean, bool validate) {
  const Request r =
      make_request("voxelize", points, offsets, size, lower, cells, max_points, max_voxels, mean, false, validate);
  Tensor point2voxel = new_tensor({points.size(0)}, ScalarType::Int);
  Tensor dropped = new_tensor({3}, ScalarType::Long);
  Outputs o{points, points, points};
  run(r, point2voxel, {&dropped, nullptr}, true, [&](int64_t voxels) { return o = allocate_outputs(r, voxels); });
  return {o.voxels, o.coords, o.num_points, point2voxel, dropped};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> voxelize_padded_op(
    Tensor points, std::optional<Tensor> offsets, std::vector<double> size, std::vector<double> lower,
    std::vector<int64_t> cells, int64_t max_points, int64_t max_voxels, bool mean, bool validate) {
  const Request r = make_request("voxelize_padded", points, offsets, size, lower, cells, max_points, max_voxels,
                                 mean, false, validate);
  const int64_t batch = static_cast<int64_t>(r.offsets.size()) - 1;
  int64_t rows = 0;
  check(r, !__builtin_mul_overflow(max_voxels, batch, &rows) && rows < kIndexLimit,
        "max_voxels: expected fewer than 2^31 rows for the whole batch");
  check(r, mean || rows == 0 || max_points <= (kIndexLimit - 1) / rows,
        "max_points: expected fewer than 2^31 rows in all voxels together; mean=True has no such limit");
  Tensor point2voxel = new_tensor({points.size(0)}, ScalarType::Int);
  Tensor dropped = new_tensor({3}, ScalarType::Long);
  Tensor count = new_tensor({}, ScalarType::Int);
  const Outputs o = allocate_outputs(r, rows);
  run(r, point2voxel, {&dropped, &count}, true, [&](int64_t) { return o; });
  return {o.voxels, o.coords, o.num_points, point2voxel, dropped, count};
}

bool overlaps(const Tensor& a, const Tensor& b) {
  const auto begin = [](const Tensor& t) { return static_cast<const char*>(t.const_data_ptr()); };
  const auto bytes = [](const Tensor& t) { return t.numel() * static_cast<int64_t>(t.element_size()); };
  if (bytes(a) == 0 || bytes(b) == 0) return false;
  return begin(a) < begin(b) + bytes(b) && begin(b) < begin(a) + bytes(a);
}

// Writes the voxels to the front of buffers of any larger size. Their number is the length of the result, which
// has no content: a compiled graph knows sizes, but would have to stop to read a value.
Tensor voxelize_out_op(Tensor points, std::optional<Tensor> offsets, std::vector<double> size,
                        std::vector<double> lower, std::vector<int64_t> cells, int64_t max_points,
                        int64_t max_voxels, bool mean, bool validate, Tensor voxels, Tensor coords,
                        Tensor num_points, Tensor point2voxel, Tensor dropped) {
  const Request r =
      make_request("voxelize", points, offsets, size, lower, cells, max_points, max_voxels, mean, false, validate);
  const Tensor* buffers[] = {&voxels, &coords, &num_points, &point2voxel, &dropped};
  for (int i = 0; i < 5; ++i) {
    check(r, buffers[i]->is_contiguous(), "out: expected contiguous buffers");
    check(r, buffers[i]->scalar_type() == (i == 0 ? r.points.scalar_type() : i == 4 ? ScalarType::Long : ScalarType::Int),
          "out: expected voxels in the dtype of points, dropped int64, the rest int32");
    check(r, !overlaps(*buffers[i], points), "out: shares memory with points; expected separate buffers");
    if (offsets.has_value())
      check(r, !overlaps(*buffers[i], *offsets), "out: shares memory with offsets; expected separate buffers");
    for (int j = 0; j < i; ++j)
      check(r, !overlaps(*buffers[i], *buffers[j]), "out: buffers share memory; expected separate ones");
  }
  const int64_t channels = points.size(1);
  check(r, mean ? voxels.dim() == 2 && voxels.size(1) == channels
                : voxels.dim() == 3 && voxels.size(1) == max_points && voxels.size(2) == channels,
        "out: voxels: expected shape (R, max_points, C), or (R, C) with mean=True");
  check(r, coords.dim() == 2 && coords.size(1) == 4, "out: coords: expected shape (R, 4)");
  check(r, num_points.dim() == 1, "out: num_points: expected shape (R,)");
  check(r, point2voxel.dim() == 1 && point2voxel.size(0) >= points.size(0), "out: point2voxel: too small; expected N rows");
  check(r, dropped.dim() == 1 && dropped.size(0) == 3, "out: dropped: expected shape (3,)");
  for (const Tensor* buffer : buffers) adopt(*buffer);
  const int64_t count = run(r, point2voxel, {&dropped, nullptr}, true, [&](int64_t needed) {
    const bool fits = voxels.size(0) >= needed && coords.size(0) >= needed && num_points.size(0) >= needed;
    if (!fits)
      check(r, false, ("out: too small; expected at least " + std::to_string(needed) + " rows").c_str());
    return Outputs{voxels, torch::stable::narrow(coords, 0, 0, needed), num_points};
  });
  return new_tensor({count, 0}, r.points.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> dynamic_voxelize_op(Tensor points, std::optional<Tensor> offsets,
                                                        std::vector<double> size, std::vector<double> lower,
                                                        std::vector<int64_t> cells, bool sorted, bool validate) {
  const Request r = make_request("dynamic_voxelize", points, offsets, size, lower, cells, kIndexLimit - 1,
                                 kIndexLimit - 1, true, sorted, validate);
  Tensor point2voxel = new_tensor({points.size(0)}, ScalarType::Int);
  Outputs o{points, points, points};
  run(r, point2voxel, {nullptr, nullptr}, false, [&](int64_t voxels) {
    return o = {points, new_tensor({voxels, 4}, ScalarType::Int), new_tensor({voxels}, ScalarType::Int)};
  });
  return {o.coords, point2voxel, o.num_points};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dynamic_voxelize_padded_op(
    Tensor points, std::optional<Tensor> offsets, std::vector<double> size, std::vector<double> lower,
    std::vector<int64_t> cells, int64_t max_voxels, bool sorted, bool validate) {
  const Request r = make_request("dynamic_voxelize_padded", points, offsets, size, lower, cells, kIndexLimit - 1,
                                 kIndexLimit - 1, true, sorted, validate);
  check(r, max_voxels >= 0 && max_voxels < kIndexLimit, "max_voxels: expected a count in [0, 2^31)");
  const Tensor point2voxel = new_tensor({points.size(0)}, ScalarType::Int);
  const Tensor count = new_tensor({}, ScalarType::Int);
  const Outputs o{points, new_tensor({max_voxels, 4}, ScalarType::Int), new_tensor({max_voxels}, ScalarType::Int)};
  run(r, point2voxel, {nullptr, &count}, false, [&](int64_t) { return o; });
  return {o.coords, point2voxel, o.num_points, count};
}

template <class T>
Tensor backward_typed(const Tensor& grad, const Tensor& point2voxel, int64_t max_points, bool mean) {
  const int64_t channels = grad.size(grad.dim() - 1);
  Tensor grad_points = new_tensor({point2voxel.size(0), channels}, grad.scalar_type());
  VoxelBackwardArgs<T> args{};
  args.grad = in<T>(grad);
  args.point2voxel = in<int32_t>(point2voxel);
  args.n = point2voxel.size(0);
  args.channels = channels;
  args.voxels = grad.size(0);
  args.max_points = max_points;
  args.mean = mean;
  args.parallel = torch_parallel();
  args.grad_points = out<T>(grad_points);
  Kernels<T>::backward(args);
  return grad_points;
}

Tensor voxelize_backward_op(Tensor grad, Tensor point2voxel, int64_t max_points, bool mean) {
  const char* op = "voxelize_backward";
  const auto require = [&](bool ok, const char* message) {
    if (!ok) value_error(std::string(op) + ": " + message);
  };
  require(mean ? grad.dim() == 2 : grad.dim() == 3 && grad.size(1) == max_points, "grad: expected the shape of voxels");
  require(max_points >= 1, "max_points: expected at least 1");
  require(point2voxel.dim() == 1 && point2voxel.scalar_type() == ScalarType::Int, "point2voxel: expected (N,) int32");
  const Tensor g = as_contiguous(grad);
  const Tensor map = as_contiguous(point2voxel);
#ifndef TENFOLD_DEVICE  // there the kernel takes a row outside for none
  const int32_t* index = in<int32_t>(map);
  for (int64_t i = 0; i < map.size(0); ++i)
    require(index[i] < grad.size(0), "point2voxel: expected rows of grad or -1");
#endif
  if (g.scalar_type() == ScalarType::Float) return backward_typed<float>(g, map, max_points, mean);
  require(g.scalar_type() == ScalarType::Double, "grad: expected float32 or float64");
  return backward_typed<double>(g, map, max_points, mean);
}

TENFOLD_CONTRACT(voxelize, 1);
TENFOLD_CONTRACT(voxelize_padded, 1);
TENFOLD_CONTRACT(voxelize_out, 1);
TENFOLD_CONTRACT(voxelize_backward, 1);
TENFOLD_CONTRACT(dynamic_voxelize, 1);
TENFOLD_CONTRACT(dynamic_voxelize_padded, 1);

TENFOLD_OPERATORS(m) {
  m.impl("voxelize", TENFOLD_BOX(voxelize_op));
  m.impl("voxelize_padded", TENFOLD_BOX(voxelize_padded_op));
  m.impl("voxelize_out", TENFOLD_BOX(voxelize_out_op));
  m.impl("voxelize_backward", TENFOLD_BOX(voxelize_backward_op));
  m.impl("dynamic_voxelize", TENFOLD_BOX(dynamic_voxelize_op));
  m.impl("dynamic_voxelize_padded", TENFOLD_BOX(dynamic_voxelize_padded_op));
}

}  // namespace
}  // namespace tenfold::bind
