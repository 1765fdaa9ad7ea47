#include <vector>

#include "bind/common.h"
#include "sparse_conv/conv.h"
#include "sparse_conv/rulebook.h"

namespace tenfold::bind {
namespace {

using Ints = std::vector<int64_t>;

constexpr int64_t kMaxRows = int64_t{1} << 31;

void three(const Ints& values, const char* message, int64_t least, int64_t (&out)[3]) {
  check(values.size() == 3, message);
  for (int a = 0; a < 3; ++a) {
    check(values[a] >= least && values[a] < kMaxRows, message);
    out[a] = values[a];
  }
}

void check_cells(const SiteGrid& grid, const int64_t (&reach)[3]) {
  check(grid.batch >= 0 && grid.batch < kMaxRows, "rulebook: batch_size: expected 0 <= batch_size < 2^31");
  double cells = static_cast<double>(grid.batch);
  for (int a = 0; a < 3; ++a) cells *= static_cast<double>(grid.shape[a]) + 2.0 * static_cast<double>(reach[a]);
  check(cells < 9.0e18, "rulebook: spatial_shape: the grid has more than 2^63 cells");
}

int64_t check_coords(const Tensor& coords) {
  check(coords.dim() == 2 && coords.size(1) == 4, "rulebook: coords: expected shape (V, 4), columns b z y x");
  check(coords.scalar_type() == ScalarType::Int, "rulebook: coords: expected int32");
  check(coords.size(0) < kMaxRows, "rulebook: coords: expected fewer than 2^31 rows");
  return coords.size(0);
}

void raise_fault(SiteFault fault, int64_t row) {
  const std::string where = "rulebook: coords: row " + std::to_string(row);
  if (fault == SiteFault::out_of_range)
    value_error(where + " is outside the grid; expected 0 <= b < batch_size and 0 <= z, y, x < spatial_shape");
  if (fault == SiteFault::duplicate) value_error(where + " repeats a site; expected unique sites");
}

int64_t kernel_volume(const int64_t (&kernel)[3]) {
  const int64_t volume = kernel[0] * kernel[1] * kernel[2];
  check(kernel[0] < 1024 && kernel[1] < 1024 && kernel[2] < 1024 && volume < (int64_t{1} << 20),
        "rulebook: kernel_size: expected fewer than 2^20 offsets");
  return volume;
}

Tensor submanifold_op(Tensor coords, Ints spatial_shape, int64_t batch_size, Ints kernel_size, Ints dilation,
                       bool validate) {
  SubmanifoldArgs args{};
  args.n = check_coords(coords);
  args.grid.batch = batch_size;
  three(spatial_shape, "rulebook: spatial_shape: expected three sizes >= 1", 1, args.grid.shape);
  three(kernel_size, "rulebook: kernel_size: expected three sizes >= 1", 1, args.geometry.kernel);
  three(dilation, "rulebook: dilation: expected three factors >= 1", 1, args.geometry.dilation);
  const int64_t volume = kernel_volume(args.geometry.kernel);
  int64_t reach[3];
  for (int a = 0; a < 3; ++a) reach[a] = args.geometry.dilation[a] * (args.geometry.kernel[a] / 2);
  check_cells(args.grid, reach);
  const Tensor c = as_contiguous(coords);
  args.coords = in<int32_t>(c);
  args.validate = validate;
  args.parallel = torch_parallel();
  const Tensor table = new_tensor({volume, args.n}, ScalarType::Int);
  args.table = out<int32_t>(table);
  dispatch::rulebook_submanifold(args);
  if (validate) raise_fault(args.fault, args.fault_row);
  return table;
}

struct StridedResult {
  Tensor coords;  // of the output sites
  Tensor table;
};

// With `max_rows`, results of so many rows and the number of sites in `count`, which the host need not know.
StridedResult strided(const Tensor& coords, const Ints& spatial_shape, int64_t batch_size, const Ints& kernel_size,
                      const Ints& stride, const Ints& padding, const Ints& dilation, bool validate,
                      std::optional<int64_t> max_rows, const Tensor* count) {
  StridedArgs args{};
  args.n = check_coords(coords);
  args.grid.batch = args.out_grid.batch = batch_size;
  ConvGeometry& g = args.geometry;
  three(spatial_shape, "rulebook: spatial_shape: expected three sizes >= 1", 1, args.grid.shape);
  three(kernel_size, "rulebook: kernel_size: expected three sizes >= 1", 1, g.kernel);
  three(stride, "rulebook: stride: expected three factors >= 1", 1, g.stride);
  three(padding, "rulebook: padding: expected three sizes >= 0", 0, g.padding);
  three(dilation, "rulebook: dilation: expected three factors >= 1", 1, g.dilation);
  const int64_t volume = kernel_volume(g.kernel);
  const int64_t none[3] = {0, 0, 0};
  for (int a = 0; a < 3; ++a) {
    const int64_t span = args.grid.shape[a] + 2 * g.padding[a] - g.dilation[a] * (g.kernel[a] - 1) - 1;
    check(span >= 0, "rulebook: spatial_shape: the kernel is larger than the padded input");
    args.out_grid.shape[a] = span / g.stride[a] + 1;
  }
  check_cells(args.grid, none);
  check_cells(args.out_grid, none);
  const Tensor c = as_contiguous(coords);
  args.coords = in<int32_t>(c);
  args.validate = validate;
  args.parallel = torch_parallel();
  dispatch::rulebook_strided_count(args);
  if (validate) raise_fault(args.fault, args.fault_row);
  check(args.pairs < kMaxRows, "rulebook: coords: expected fewer than 2^31 pairs");
  Scratch scratch;
  args.key = args.wide ? static_cast<void*>(scratch.take<uint64_t>(args.pairs + 1))
                       : static_cast<void*>(scratch.take<uint32_t>(args.pairs + 1));
  args.payload = scratch.take<uint64_t>(args.pairs + 1);
  args.order = scratch.take<int32_t>(args.pairs);
#ifdef TENFOLD_DEVICE
  if (count != nullptr) args.out_rows_there = out<int32_t>(*count);
#endif
  dispatch::rulebook_strided_sites(args);
  args.rows = max_rows.value_or(args.out_rows);
  const Tensor out_coords = new_tensor({args.rows, 4}, ScalarType::Int);
  const Tensor table = new_tensor({volume, args.rows}, ScalarType::Int);
  if (max_rows.has_value()) fill_with(out_coords, 0xff);
  args.out_coords = out<int32_t>(out_coords);
  args.table = out<int32_t>(table);
  dispatch::rulebook_strided_fill(args);
  const auto found = static_cast<int32_t>(args.out_rows);
  if (count != nullptr && args.out_rows_there == nullptr) put_values(*count, &found, 1);
  return {out_coords, table};
}

std::tuple<Tensor, Tensor> strided_op(Tensor coords, Ints spatial_shape, int64_t batch_size, Ints kernel_size,
                                       Ints stride, Ints padding, Ints dilation, bool validate) {
  const StridedResult r = strided(coords, spatial_shape, batch_size, kernel_size, stride, padding, dilation, validate,
                                  std::nullopt, nullptr);
  return {r.coords, r.table};
}

std::tuple<Tensor, Tensor, Tensor> strided_padded_op(Tensor coords, Ints spatial_shape, int64_t batch_size,
                                                      Ints kernel_size, int64_t max_out, Ints stride, Ints padding,
                                                      Ints dilation, bool validate) {
  check(max_out >= 0 && max_out < kMaxRows, "rulebook_strided_padded: max_out: expected a count in [0, 2^31)");
  const Tensor count = new_tensor({}, ScalarType::Int);
  const StridedResult r = strided(coords, spatial_shape, batch_size, kernel_size, stride, padding, dilation, validate,
                                  max_out, &count);
  return {r.coords, r.table, count};
}

void check_table(const Tensor& table) {
  check(table.dim() == 2, "sparse_conv: table: expected shape (K, V)");
  check(table.scalar_type() == ScalarType::Int, "sparse_conv: table: expected int32");
}

Tensor invert_op(Tensor table, int64_t rows) {
  check_table(table);
  check(rows >= 0 && rows < kMaxRows, "rulebook_invert: rows: expected 0 <= rows < 2^31");
  const Tensor t = as_contiguous(table);
  const Tensor inverse = new_tensor({table.size(0), rows}, ScalarType::Int);
  InvertArgs args{in<int32_t>(t), table.size(0), table.size(1), rows, torch_parallel(), out<int32_t>(inverse), false};
  dispatch::rulebook_invert(args);
  check(!args.bad, "rulebook_invert: table: an entry is not below rows");
  return inverse;
}

void check_features(const Tensor& features, const char* message) {
  check(features.dim() == 2, message);
  check(features.size(0) < kMaxRows, "sparse_conv: features: expected fewer than 2^31 rows");
}

constexpr const char* kBadTable = "sparse_conv: table: an entry names a row that features do not have";

template <class T>
Tensor conv(void (*kernel)(SparseConvArgs<T>&), const Tensor& features, const Tensor& weight,
            const std::optional<Tensor>& bias, const Tensor& table) {
  SparseConvArgs<T> args{};
  const Tensor x = as_contiguous(features);
  const Tensor w = as_contiguous(weight);
  const Tensor t = as_contiguous(table);
  args.features = in<T>(x);
  args.weight = in<T>(w);
  args.table = in<int32_t>(t);
  args.in_rows = x.size(0);
  args.out_rows = t.size(1);
  args.c_in = x.size(1);
  args.c_out = w.size(0);
  args.offsets = t.size(0);
  args.parallel = torch_parallel();
  const Tensor b = bias.has_value() ? as_contiguous(*bias) : x;
  args.bias = bias.has_value() ? in<T>(b) : nullptr;
  const Tensor result = new_tensor({args.out_rows, args.c_out}, x.scalar_type());
  args.out = out<T>(result);
  kernel(args);
  check(!args.bad, kBadTable);
  return result;
}

Tensor sparse_conv_op(Tensor features, Tensor weight, std::optional<Tensor> bias, Tensor table,
                       bool /*symmetric: for the gradient only*/) {
  check_features(features, "sparse_conv: features: expected shape (V, C_in)");
  check_table(table);
  check(weight.dim() == 3 && weight.size(1) == table.size(0) && weight.size(2) == features.size(1),
        "sparse_conv: weight: expected shape (C_out, K, C_in)");
  check(weight.scalar_type() == features.scalar_type(), "sparse_conv: weight: expected the dtype of features");
  if (bias.has_value())
    check(bias->dim() == 1 && bias->size(0) == weight.size(0) && bias->scalar_type() == features.scalar_type(),
          "sparse_conv: bias: expected shape (C_out,) and the dtype of features");
  if (features.scalar_type() == ScalarType::Float)
    return conv<float>(dispatch::sparse_conv_f32, features, weight, bias, table);
  check(features.scalar_type() == ScalarType::Double, "sparse_conv: features: expected float32 or float64");
  return conv<double>(dispatch::sparse_conv_f64, features, weight, bias, table);
}

template <class T>
Tensor conv_weight(void (*kernel)(SparseConvWeightArgs<T>&), const Tensor& features, const Tensor& grad,
                   const Tensor& table) {
  SparseConvWeightArgs<T> args{};
  const Tensor x = as_contiguous(features);
  const Tensor g = as_contiguous(grad);
  const Tensor t = as_contiguous(table);
  args.features = in<T>(x);
  args.grad = in<T>(g);
  args.table = in<int32_t>(t);
  args.in_rows = x.size(0);
  args.out_rows = t.size(1);
  args.c_in = x.size(1);
  args.c_out = g.size(1);
  args.offsets = t.size(0);
  args.parallel = torch_parallel();
  const Tensor result = new_tensor({args.c_out, args.offsets, args.c_in}, x.scalar_type());
  args.grad_weight = out<T>(result);
  kernel(args);
  check(!args.bad, kBadTable);
  return result;
}

Tensor sparse_conv_weight_op(Tensor features, Tensor grad, Tensor table) {
  check_features(features, "sparse_conv_weight: features: expected shape (V, C_in)");
  check_table(table);
  check(grad.dim() == 2 && grad.size(0) == table.size(1) && grad.scalar_type() == features.scalar_type(),
        "sparse_conv_weight: grad: expected shape (V_out, C_out) and the dtype of features");
  if (features.scalar_type() == ScalarType::Float)
    return conv_weight<float>(dispatch::sparse_conv_weight_f32, features, grad, table);
  check(features.scalar_type() == ScalarType::Double, "sparse_conv_weight: features: expected float32 or float64");
  return conv_weight<double>(dispatch::sparse_conv_weight_f64, features, grad, table);
}

template <class T>
std::tuple<Tensor, Tensor> max_pool(void (*kernel)(SparseMaxPoolArgs<T>&), const Tensor& features,
                                    const Tensor& table) {
  SparseMaxPoolArgs<T> args{};
  const Tensor x = as_contiguous(features);
  const Tensor t = as_contiguous(table);
  const Tensor result = new_tensor({t.size(1), x.size(1)}, x.scalar_type());
  const Tensor arg = new_tensor({t.size(1), x.size(1)}, ScalarType::Int);
  args.features = in<T>(x);
  args.table = in<int32_t>(t);
  args.in_rows = x.size(0);
  args.out_rows = t.size(1);
  args.channels = x.size(1);
  args.offsets = t.size(0);
  args.parallel = torch_parallel();
  args.out = out<T>(result);
  args.arg = out<int32_t>(arg);
  kernel(args);
  check(!args.bad, kBadTable);
  return {result, arg};
}

std::tuple<Tensor, Tensor> sparse_max_pool_op(Tensor features, Tensor table) {
  check_features(features, "sparse_max_pool: features: expected shape (V, C)");
  check_table(table);
  if (features.scalar_type() == ScalarType::Float)
    return max_pool<float>(dispatch::sparse_max_pool_f32, features, table);
  check(features.scalar_type() == ScalarType::Double, "sparse_max_pool: features: expected float32 or float64");
  return max_pool<double>(dispatch::sparse_max_pool_f64, features, table);
}

TENFOLD_CONTRACT(rulebook_submanifold, 1);
TENFOLD_CONTRACT(rulebook_strided, 1);
TENFOLD_CONTRACT(rulebook_strided_padded, 1);
TENFOLD_CONTRACT(rulebook_invert, 1);
TENFOLD_CONTRACT(sparse_conv, 1);
TENFOLD_CONTRACT(sparse_conv_weight, 1);
TENFOLD_CONTRACT(sparse_max_pool, 1);

TENFOLD_OPERATORS(m) {
  m.impl("rulebook_submanifold", TENFOLD_BOX(submanifold_op));
  m.impl("rulebook_strided", TENFOLD_BOX(strided_op));
  m.impl("rulebook_strided_padded", TENFOLD_BOX(strided_padded_op));
  m.impl("rulebook_invert", TENFOLD_BOX(invert_op));
  m.impl("sparse_conv", TENFOLD_BOX(sparse_conv_op));
  m.impl("sparse_conv_weight", TENFOLD_BOX(sparse_conv_weight_op));
  m.impl("sparse_max_pool", TENFOLD_BOX(sparse_max_pool_op));
}

}  // namespace
}  // namespace tenfold::bind
