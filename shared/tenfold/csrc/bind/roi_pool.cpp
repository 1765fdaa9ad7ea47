#include "roi_pool/roi_pool.h"

#include <cstring>

#include "bind/points_in_boxes.h"
#ifdef TENFOLD_DEVICE
#include "roi_pool/enlarge.h"
#endif

namespace tenfold::bind {
namespace {

constexpr BoxNames kPointNames{"roi_point_pool", "boxes", "box_"};
constexpr BoxNames kGridNames{"roi_grid_pool3d", "rois", "roi_"};
constexpr double kEntries = 4e18;  // of an output, so that its size fits

using Optional = std::optional<Tensor>;

void check_feats(const Tensor& points, const Tensor& feats) {
  bool fits = feats.dim() == points.dim() && feats.scalar_type() == points.scalar_type();
  for (int64_t d = 0; fits && d + 1 < points.dim(); ++d) fits = feats.size(d) == points.size(d);
  check(fits, "roi_pool: feats: expected a row per point and the dtype of points");
}

// ---- slots

template <class T>
Tensor with_size(const Tensor& boxes, const std::vector<double>& enlarge) {
  const Tensor from = as_contiguous(boxes);
  Tensor to = boxes.dim() == 3 ? new_tensor({boxes.size(0), boxes.size(1), 7}, boxes.scalar_type())
                               : new_tensor({boxes.size(0), 7}, boxes.scalar_type());
#ifdef TENFOLD_DEVICE
  const T grown[3] = {static_cast<T>(enlarge[0]), static_cast<T>(enlarge[1]), static_cast<T>(enlarge[2])};
  cuda::enlarge_boxes(stream(), in<T>(from), from.numel() / 7, grown, out<T>(to));
#else
  T* row = out<T>(to);
  std::memcpy(row, in<T>(from), static_cast<size_t>(from.numel()) * sizeof(T));
  for (int64_t i = 0; i < from.numel() / 7; ++i, row += 7) {
    if (!(row[3] > 0 && row[4] > 0 && row[5] > 0)) continue;
    for (size_t a = 0; a < 3; ++a) row[3 + a] += static_cast<T>(enlarge[a]);
  }
#endif
  return to;
}

template <class T>
RoiPointArgs<T> point_args(const Tensor& point, const Tensor& count, int64_t channels, int64_t rows) {
  RoiPointArgs<T> args{};
  args.point = in<int32_t>(point);
  args.count = in<int32_t>(count);
  args.boxes = count.numel();
  args.k = point.size(point.dim() - 1);
  args.channels = channels;
  args.rows = rows;
  if (point.dim() == 3) {
    args.boxes_per_element = point.size(1);
    args.points_per_element = point.size(0) > 0 ? rows / point.size(0) : 0;
  }
  args.parallel = torch_parallel();
  return args;
}

template <class T, class Kernel>
void pool_points(Kernel kernel, const Tensor& points, const Tensor& feats, const Tensor& point, const Tensor& count,
                 const Tensor& pooled) {
  RoiPointArgs<T> args = point_args<T>(point, count, feats.size(feats.dim() - 1), points.numel() / 3);
  args.points = in<T>(points);
  args.feats = in<T>(feats);
  args.pooled = out<T>(pooled);
  kernel(args);
}

std::tuple<Tensor, Tensor, Tensor> roi_point_pool_op(Tensor points, Tensor feats, Tensor boxes, int64_t k,
                                                      std::vector<double> enlarge, double margin, double z_margin,
                                                      Optional lengths, Optional box_lengths, Optional offsets,
                                                      Optional box_offsets, bool validate) {
  check(k >= 0 && k < kRowLimit, "roi_point_pool: k: expected 0 to 2^31 - 1");
  check(enlarge.size() == 3, "roi_point_pool: enlarge: expected three numbers");
  for (const double e : enlarge) check(e >= 0 && e < 1e30, "roi_point_pool: enlarge: expected numbers from 0 to 1e30");
  const bool single = points.scalar_type() == ScalarType::Float;
  PointsBoxes inputs = points_boxes(kPointNames, points, boxes, margin, z_margin, lengths, box_lengths, offsets,
                                    box_offsets, validate);
  check_feats(points, feats);
  inputs.boxes = single ? with_size<float>(inputs.boxes, enlarge) : with_size<double>(inputs.boxes, enlarge);
  const Tensor f = as_contiguous(feats);
  const int64_t width = 3 + f.size(f.dim() - 1), rows = boxes.numel() / 7;
  check(static_cast<double>(rows) * static_cast<double>(k) * static_cast<double>(width) < kEntries,
        "roi_point_pool: k: the output would be too large");
  const bool padded = boxes.dim() == 3;
  const int64_t b = padded ? boxes.size(0) : 1, m = padded ? boxes.size(1) : rows;
  Tensor pooled = padded ? new_tensor({b, m, k, width}, f.scalar_type()) : new_tensor({m, k, width}, f.scalar_type());
  Tensor point = padded ? new_tensor({b, m, k}, ScalarType::Int) : new_tensor({m, k}, ScalarType::Int);
  Tensor count = padded ? new_tensor({b, m}, ScalarType::Int) : new_tensor({m}, ScalarType::Int);
  fill_with(point, 0xff);
  fill_with(count, 0);
  fill_table(inputs, k, out<int32_t>(point), out<int32_t>(count));
  if (single)
    pool_points<float>(dispatch::roi_point_pool_f32, inputs.points, f, point, count, pooled);
  else
    pool_points<double>(dispatch::roi_point_pool_f64, inputs.points, f, point, count, pooled);
  return {pooled, point, count};
}

template <class T, class Kernel>
void pool_points_backward(Kernel kernel, const Tensor& grad, const Tensor& point, const Tensor& count,
                          const Tensor& result) {
  const int64_t channels = grad.size(grad.dim() - 1) - 3;
  const int64_t rows = point.dim() == 3 ? result.size(0) * result.size(1) : result.size(0);
  RoiPointArgs<T> args = point_args<T>(point, count, channels, rows);
  args.grad = in<T>(grad);
  args.grad_feats = out<T>(result);
  kernel(args);
}

Tensor roi_point_pool_backward_op(Tensor grad, Tensor point, Tensor count, int64_t rows) {
  const char* const message = "roi_point_pool_backward: expected grad (..., M, k, 3 + C), point (..., M, k), count (..., M)";
  const int64_t d = point.dim();
  check((d == 2 || d == 3) && grad.dim() == d + 1 && count.dim() == d - 1, message);
  for (int64_t i = 0; i < d; ++i) check(grad.size(i) == point.size(i), message);
  for (int64_t i = 0; i + 1 < d; ++i) check(count.size(i) == point.size(i), message);
  check(grad.size(d) >= 3 && rows >= 0, message);
  check(point.scalar_type() == ScalarType::Int && count.scalar_type() == ScalarType::Int, message);
  const Tensor g = as_contiguous(grad), p = as_contiguous(point), c = as_contiguous(count);
  const int64_t channels = g.size(d) - 3;
  Tensor result = d == 3 ? new_tensor({p.size(0), rows, channels}, g.scalar_type())
                         : new_tensor({rows, channels}, g.scalar_type());
  if (g.scalar_type() == ScalarType::Float) {
    pool_points_backward<float>(dispatch::roi_point_pool_backward_f32, g, p, c, result);
  } else {
    check(g.scalar_type() == ScalarType::Double, "roi_point_pool_backward: grad: expected float32 or float64");
    pool_points_backward<double>(dispatch::roi_point_pool_backward_f64, g, p, c, result);
  }
  return result;
}

// ---- grid

void check_grid(const std::vector<int64_t>& grid, int64_t max_points) {
  check(grid.size() == 3, "roi_grid_pool3d: grid: expected three numbers");
  double cells = 1;
  for (const int64_t g : grid) {
    check(g >= 1 && g < kRowLimit, "roi_grid_pool3d: grid: expected numbers from 1 to 2^31 - 1");
    cells *= static_cast<double>(g);
  }
  check(cells < static_cast<double>(kRowLimit), "roi_grid_pool3d: grid: expected fewer than 2^31 cells");
  check(max_points >= 1 && max_points < kRowLimit, "roi_grid_pool3d: max_points: expected 1 to 2^31 - 1");
}

// Lists of the points in every box, as rows of the flattened points.
struct Lists {
  int64_t* begin;
  int32_t* point;
};

Lists list_points(PointsBoxes& inputs, Scratch& scratch) {
  inputs.global_rows = true;
  Lists lists{scratch.take<int64_t>(inputs.boxes.numel() / 7 + 1), nullptr};
  const Places places = count_hits(inputs, scratch);
  lists.point = scratch.take<int32_t>(to_lists(inputs, places, lists.begin));
  BoxOutputs outputs{BoxOutput::fill};
  outputs.place = places.entry;
  outputs.point = lists.point;
  find_points(inputs, outputs);
  return lists;
}

template <class T>
RoiGridArgs<T> grid_args(const PointsBoxes& inputs, const std::vector<int64_t>& grid, int64_t max_points, bool maximum,
                         int64_t channels) {
  RoiGridArgs<T> args{};
  args.rois = in<T>(inputs.boxes);
  args.points = in<T>(inputs.points);
  args.boxes = inputs.boxes.numel() / 7;
  args.rows = inputs.points.numel() / 3;
  args.channels = channels;
  for (size_t a = 0; a < 3; ++a) args.grid[a] = grid[a];
  args.max_points = max_points;
  args.maximum = maximum;
  args.parallel = torch_parallel();
  return args;
}

template <class T, class Kernel>
void pool_grid(Kernel kernel, PointsBoxes& inputs, const std::vector<int64_t>& grid, int64_t max_points, bool maximum,
               const Tensor& feats, const Tensor& pooled, int32_t* arg) {
  Scratch scratch;
  const Lists lists = list_points(inputs, scratch);
  RoiGridArgs<T> args = grid_args<T>(inputs, grid, max_points, maximum, feats.size(feats.dim() - 1));
  args.feats = in<T>(feats);
  args.begin = lists.begin;
  args.point = lists.point;
  args.pooled = out<T>(pooled);
  args.arg = arg;
  kernel(args);
}

std::tuple<Tensor, Tensor> roi_grid_pool3d_op(Tensor rois, Tensor points, Tensor feats, std::vector<int64_t> grid,
                                               int64_t max_points, bool maximum, bool need_arg, double margin,
                                               double z_margin, Optional lengths, Optional roi_lengths,
                                               Optional offsets, Optional roi_offsets, bool validate) {
  check_grid(grid, max_points);
  PointsBoxes inputs =
      points_boxes(kGridNames, points, rois, margin, z_margin, lengths, roi_lengths, offsets, roi_offsets, validate);
  check_feats(points, feats);
  const Tensor f = as_contiguous(feats);
  const int64_t channels = f.size(f.dim() - 1), cells = grid[0] * grid[1] * grid[2];
  check(static_cast<double>(rois.numel()) * static_cast<double>(cells) * static_cast<double>(channels) < kEntries,
        "roi_grid_pool3d: grid: the output would be too large");
  const bool padded = rois.dim() == 3, with_arg = maximum && need_arg;
  const int64_t b = padded ? rois.size(0) : 1, m = padded ? rois.size(1) : rois.size(0);
  const ScalarType dtype = f.scalar_type();
  Tensor pooled = padded ? new_tensor({b, m, grid[0], grid[1], grid[2], channels}, dtype)
                         : new_tensor({m, grid[0], grid[1], grid[2], channels}, dtype);
  Tensor arg = !with_arg ? new_tensor({0}, ScalarType::Int)
               : padded  ? new_tensor({b, m, cells, channels}, ScalarType::Int)
                         : new_tensor({m, cells, channels}, ScalarType::Int);
  int32_t* const who = with_arg ? out<int32_t>(arg) : nullptr;
  if (dtype == ScalarType::Float)
    pool_grid<float>(dispatch::roi_grid_pool_f32, inputs, grid, max_points, maximum, f, pooled, who);
  else
    pool_grid<double>(dispatch::roi_grid_pool_f64, inputs, grid, max_points, maximum, f, pooled, who);
  return {pooled, arg};
}

template <class T, class Kernel>
void pool_grid_backward(Kernel kernel, PointsBoxes& inputs, const std::vector<int64_t>& grid, int64_t max_points,
                        bool maximum, const Tensor& grad, const Tensor& arg, const Tensor& result) {
  Scratch scratch;
  RoiGridArgs<T> args = grid_args<T>(inputs, grid, max_points, maximum, grad.size(grad.dim() - 1));
  if (maximum) {
    args.arg_in = in<int32_t>(arg);
  } else {
    const Lists lists = list_points(inputs, scratch);
    args.begin = lists.begin;
    args.point = lists.point;
  }
  args.grad = in<T>(grad);
  args.grad_feats = out<T>(result);
  kernel(args);
}

Tensor roi_grid_pool3d_backward_op(Tensor grad, Tensor arg, Tensor rois, Tensor points, std::vector<int64_t> grid,
                                    int64_t max_points, bool maximum, double margin, double z_margin, Optional lengths,
                                    Optional roi_lengths, Optional offsets, Optional roi_offsets) {
  check_grid(grid, max_points);
  PointsBoxes inputs =
      points_boxes(kGridNames, points, rois, margin, z_margin, lengths, roi_lengths, offsets, roi_offsets, false);
  const int64_t channels = grad.dim() > 0 ? grad.size(grad.dim() - 1) : 0;
  const int64_t entries = rois.numel() / 7 * grid[0] * grid[1] * grid[2] * channels;
  check(grad.dim() == rois.dim() + 3 && grad.numel() == entries && grad.scalar_type() == points.scalar_type(),
        "roi_grid_pool3d_backward: grad: expected shape (..., M, gx, gy, gz, C) and the dtype of points");
  check(!maximum || (arg.scalar_type() == ScalarType::Int && arg.numel() == entries),
        "roi_grid_pool3d_backward: arg: expected int32, an entry per entry of grad");
  const Tensor g = as_contiguous(grad), a = as_contiguous(arg);
  Tensor result = points.dim() == 3 ? new_tensor({points.size(0), points.size(1), channels}, g.scalar_type())
                                    : new_tensor({points.size(0), channels}, g.scalar_type());
  if (g.scalar_type() == ScalarType::Float)
    pool_grid_backward<float>(dispatch::roi_grid_pool_backward_f32, inputs, grid, max_points, maximum, g, a, result);
  else
    pool_grid_backward<double>(dispatch::roi_grid_pool_backward_f64, inputs, grid, max_points, maximum, g, a, result);
  return result;
}

TENFOLD_CONTRACT(roi_point_pool, 1);
TENFOLD_CONTRACT(roi_point_pool_backward, 1);
TENFOLD_CONTRACT(roi_grid_pool3d, 1);
TENFOLD_CONTRACT(roi_grid_pool3d_backward, 1);

TENFOLD_OPERATORS(m) {
  m.impl("roi_point_pool", TENFOLD_BOX(roi_point_pool_op));
  m.impl("roi_point_pool_backward", TENFOLD_BOX(roi_point_pool_backward_op));
  m.impl("roi_grid_pool3d", TENFOLD_BOX(roi_grid_pool3d_op));
  m.impl("roi_grid_pool3d_backward", TENFOLD_BOX(roi_grid_pool3d_backward_op));
}

}  // namespace
}  // namespace tenfold::bind
