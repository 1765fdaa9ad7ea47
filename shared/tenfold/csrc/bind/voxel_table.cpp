#include "voxel_table/voxel_table.h"

#include <cmath>
#include <vector>

#include "bind/common.h"

namespace tenfold::bind {
namespace {

constexpr int64_t kRows = int64_t{1} << 30;

void check_coords(const Tensor& coords) {
  check(coords.dim() == 2 && coords.size(1) == 4, "voxel_table: coords: expected shape (V, 4)");
  check(coords.scalar_type() == ScalarType::Int || coords.scalar_type() == ScalarType::Long,
        "voxel_table: coords: expected int32 or int64");
  check(coords.size(0) < kRows, "voxel_table: coords: expected fewer than 2^30 rows");
}

template <class Args>
void set_coords(Args& args, const Tensor& coords) {
  if (coords.scalar_type() == ScalarType::Int)
    args.coords32 = in<int32_t>(coords);
  else
    args.coords64 = in<int64_t>(coords);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> voxel_table_op(Tensor coords, bool validate) {
  check_coords(coords);
  const Tensor c = as_contiguous(coords);
  const int64_t v = c.size(0);
  Tensor keys = new_tensor({v}, ScalarType::Long), rows = new_tensor({v}, ScalarType::Int);
  Tensor directory = new_tensor({2 * v + 1}, ScalarType::Int), meta = new_tensor({kTableMeta}, ScalarType::Long);
  VoxelTableArgs args{};
  set_coords(args, c);
  args.v = v;
  args.validate = validate;
  args.parallel = torch_parallel();
  args.keys = out<int64_t>(keys);
  args.rows = out<int32_t>(rows);
  args.directory = out<int32_t>(directory);
  args.meta = out<int64_t>(meta);
  dispatch::voxel_table(args);
  if (args.bad_what == 1)
    value_error("VoxelTable: coords: they span 2^63 cells or more; expected fewer than 2^63 in all");
  if (args.bad_what == 2)
    value_error("VoxelTable: coords: row " + std::to_string(args.bad_row) + " repeats the cell of row " +
                std::to_string(args.bad_first) + "; expected distinct cells");
  return {keys, rows, directory, meta};
}

// The table's tensors, kept alive and checked: the kernels follow its directory without looking back.
struct Table {
  Tensor keys, rows, directory, meta;
  VoxelTableView view;
};

#ifndef TENFOLD_DEVICE
void check_content(const VoxelTableView& view) {
  const int64_t v = view.v;
  if (v == 0) return;
  const int64_t* m = view.meta;
  unsigned __int128 cells = 1;
  bool fine = m[8] >= 0 && m[8] < 63;
  for (int a = 4; a < 8; ++a) {
    fine &= m[a] >= 1;
    cells *= static_cast<uint64_t>(m[a]);
    fine &= cells < static_cast<unsigned __int128>(1) << 63;
    if (!fine) break;
  }
  fine = fine && (static_cast<uint64_t>(cells) - 1) >> m[8] < static_cast<uint64_t>(2 * v);
  check(fine, "voxel_table: meta: expected the tensors of one VoxelTable");
  int32_t before = 0;
  for (int64_t i = 0; i <= 2 * v && fine; ++i) {
    fine = view.directory[i] >= before && view.directory[i] <= v;
    before = view.directory[i];
  }
  for (int64_t i = 0; i < v; ++i) fine &= view.rows[i] >= 0 && view.rows[i] < v;
  check(fine, "voxel_table: directory, rows: expected the tensors of one VoxelTable");
}
#endif

Table open_table(const Tensor& keys, const Tensor& rows, const Tensor& directory, const Tensor& meta) {
  const int64_t v = keys.numel();
  check(keys.dim() == 1 && keys.scalar_type() == ScalarType::Long && v < kRows, "voxel_table: keys: expected (V,) int64");
  check(rows.dim() == 1 && rows.size(0) == v && rows.scalar_type() == ScalarType::Int,
        "voxel_table: rows: expected (V,) int32");
  check(directory.dim() == 1 && directory.size(0) == 2 * v + 1 && directory.scalar_type() == ScalarType::Int,
        "voxel_table: directory: expected (2 V + 1,) int32");
  check(meta.dim() == 1 && meta.size(0) == kTableMeta && meta.scalar_type() == ScalarType::Long,
        "voxel_table: meta: expected (9,) int64");
  Table t{as_contiguous(keys), as_contiguous(rows), as_contiguous(directory), as_contiguous(meta), {}};
  t.view = {in<int64_t>(t.keys), in<int32_t>(t.rows), in<int32_t>(t.directory), in<int64_t>(t.meta), v};
#ifndef TENFOLD_DEVICE  // there it would stop the stream: a directory that was tampered with is read as it is
  check_content(t.view);
#endif
  return t;
}

Tensor lookup_op(Tensor keys, Tensor rows, Tensor directory, Tensor meta, Tensor coords) {
  check_coords(coords);
  const Table table = open_table(keys, rows, directory, meta);
  const Tensor c = as_contiguous(coords);
  LookupArgs args{};
  args.table = table.view;
  set_coords(args, c);
  args.m = c.size(0);
  args.parallel = torch_parallel();
  Tensor result = new_tensor({c.size(0)}, ScalarType::Int);
  args.out = out<int32_t>(result);
  dispatch::lookup(args);
  return result;
}

template <class T, class Kernel>
std::tuple<Tensor, Tensor> run_query(Kernel kernel, const Table& table, const Tensor& xyz_vox, const Tensor& coords,
                                     const Tensor& xyz_query, const std::vector<int64_t>& ranges, double radius,
                                     int64_t k, bool validate) {
  VoxelQueryArgs<T> args{};
  args.table = table.view;
  args.xyz_vox = in<T>(xyz_vox);
  set_coords(args, coords);
  args.xyz_query = in<T>(xyz_query);
  args.m = coords.size(0);
  for (size_t a = 0; a < 3; ++a) args.range[a] = ranges[a];
  args.radius = radius;
  args.k = k;
  args.validate = validate;
  args.parallel = torch_parallel();
  Tensor idx = new_tensor({args.m, k}, ScalarType::Int), count = new_tensor({args.m}, ScalarType::Int);
  args.idx = out<int32_t>(idx);
  args.count = out<int32_t>(count);
  kernel(args);
  if (args.bad_what != 0)
    value_error(std::string("voxel_query: ") + (args.bad_what == 1 ? "xyz_vox" : "xyz_query") + ": row " +
                std::to_string(args.bad_row) + " is not finite; expected finite coordinates");
  return {idx, count};
}

std::tuple<Tensor, Tensor> voxel_query_op(Tensor keys, Tensor rows, Tensor directory, Tensor meta, Tensor xyz_vox,
                                           Tensor coords, Tensor xyz_query, std::vector<int64_t> ranges,
                                           double radius, int64_t k, bool validate) {
  check_coords(coords);
  const Table table = open_table(keys, rows, directory, meta);
  const auto is_xyz = [](const Tensor& t, int64_t n) { return t.dim() == 2 && t.size(0) == n && t.size(1) == 3; };
  check(is_xyz(xyz_vox, table.view.v), "voxel_query: xyz_vox: expected shape (V, 3)");
  check(is_xyz(xyz_query, coords.size(0)), "voxel_query: xyz_query: expected shape (M, 3)");
  check(xyz_vox.scalar_type() == ScalarType::Float || xyz_vox.scalar_type() == ScalarType::Double,
        "voxel_query: xyz_vox: expected float32 or float64");
  check(xyz_query.scalar_type() == xyz_vox.scalar_type(), "voxel_query: xyz_query: expected the dtype of xyz_vox");
  check(ranges.size() == 3, "voxel_query: ranges: expected three numbers");
  for (const int64_t r : ranges)
    check(r >= 0 && r < (int64_t{1} << 31), "voxel_query: ranges: expected numbers from 0 to 2^31 - 1");
  check(radius > 0 && std::isfinite(radius), "voxel_query: radius: expected a positive, finite number");
  check(k >= 1 && k < (int64_t{1} << 31), "voxel_query: k: expected 1 to 2^31 - 1");
  const Tensor v = as_contiguous(xyz_vox), c = as_contiguous(coords), q = as_contiguous(xyz_query);
  if (v.scalar_type() == ScalarType::Float)
    return run_query<float>(dispatch::voxel_query_f32, table, v, c, q, ranges, radius, k, validate);
  return run_query<double>(dispatch::voxel_query_f64, table, v, c, q, ranges, radius, k, validate);
}

TENFOLD_CONTRACT(voxel_table, 1);
TENFOLD_CONTRACT(lookup, 1);
TENFOLD_CONTRACT(voxel_query, 1);

TENFOLD_OPERATORS(m) {
  m.impl("voxel_table", TENFOLD_BOX(voxel_table_op));
  m.impl("lookup", TENFOLD_BOX(lookup_op));
  m.impl("voxel_query", TENFOLD_BOX(voxel_query_op));
}

}  // namespace
}  // namespace tenfold::bind
