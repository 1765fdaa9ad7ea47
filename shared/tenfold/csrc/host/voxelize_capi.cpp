#include "host/voxelize_capi.h"

#include "voxelize/voxelize.h"

namespace tenfold::host {
namespace {

template <class T>
VoxelGrid<T> make_grid(const double* lower, const double* size, const int64_t* cells) {
  VoxelGrid<T> grid{};
  for (int axis = 0; axis < 3; ++axis) {
    grid.lower[axis] = static_cast<T>(lower[axis]);
    grid.size[axis] = static_cast<T>(size[axis]);
    grid.cells[axis] = cells[axis];
  }
  return grid;
}

template <class T>
int64_t finish_assign(const VoxelAssignArgs<T>& args, int64_t* totals, int64_t* dropped) {
  if (args.bad_row >= 0) {
    totals[0] = args.bad_row;
    return kRefused;
  }
  totals[0] = args.result.stored;
  totals[1] = args.result.voxels;
  for (int i = 0; i < 3; ++i) dropped[i] = args.dropped[i];
  return args.result.voxels;
}

}  // namespace
}  // namespace tenfold::host

#define TENFOLD_DEFINE_VOXELIZE(suffix, T)                                                     \
  TENFOLD_HOST_VOXEL_ASSIGN(suffix, T) {                                                       \
    return tenfold::host::guarded([&]() -> int64_t {                                           \
      tenfold::VoxelAssignArgs<T> args{};                                                      \
      args.points = points;                                                                    \
      args.n = n;                                                                              \
      args.channels = channels;                                                                \
      args.offsets = offsets;                                                                  \
      args.batch = batch;                                                                      \
      args.grid = tenfold::host::make_grid<T>(lower, size, cells);                             \
      args.max_points = max_points;                                                            \
      args.max_voxels = max_voxels;                                                            \
      args.mean = mean != 0;                                                                   \
      args.validate = true;                                                                    \
      args.hash_multiplier = static_cast<uint64_t>(multiplier);                                \
      args.result = {key, counts, source, place, begin, 0, 0};                                 \
      args.point2voxel = point2voxel;                                                          \
      tenfold::dispatch::voxel_assign_##suffix(args);                                          \
      return tenfold::host::finish_assign(args, totals, dropped);                              \
    });                                                                                        \
  }                                                                                            \
  TENFOLD_HOST_VOXEL_FILL(suffix, T) {                                                         \
    return tenfold::host::guarded([&]() -> int64_t {                                           \
      tenfold::VoxelFillArgs<T> args{};                                                        \
      args.points = points;                                                                    \
      args.channels = channels;                                                                \
      args.batch = batch;                                                                      \
      args.grid = tenfold::host::make_grid<T>(lower, size, cells);                             \
      args.max_points = max_points;                                                            \
      args.mean = mean != 0;                                                                   \
      args.assignment = {key, counts, source, place, begin, totals[0], totals[1]};             \
      args.rows = totals[1];                                                                   \
      args.voxels = voxels;                                                                    \
      args.coords = coords;                                                                    \
      args.num_points = num_points;                                                            \
      tenfold::dispatch::voxel_fill_##suffix(args);                                            \
      return 0;                                                                                \
    });                                                                                        \
  }

TENFOLD_DEFINE_VOXELIZE(f32, float)
TENFOLD_DEFINE_VOXELIZE(f64, double)
