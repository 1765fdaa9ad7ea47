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
struct Buffers {
  int64_t rows;
  T* voxels;
  int32_t* coords;
  int32_t* num_points;
};

// The kernel asks for its outputs once it knows their number; too few rows end the call.
struct TooFewRows {};

template <class T>
void hand_out(VoxelArgs<T>& args, void* context) {
  const auto& buffers = *static_cast<const Buffers<T>*>(context);
  if (args.count > buffers.rows) throw TooFewRows();
  args.rows = args.count;
  args.voxels = buffers.voxels;
  args.coords = buffers.coords;
  args.num_points = buffers.num_points;
}

}  // namespace
}  // namespace tenfold::host

#define TENFOLD_DEFINE_VOXELIZE(suffix, T)                                        \
  TENFOLD_HOST_VOXELIZE(suffix, T) {                                              \
    using namespace tenfold::host;                                                \
    return guarded([&]() -> int64_t {                                             \
      Buffers<T> buffers{rows, copy != 0 ? voxels : nullptr, coords, num_points}; \
      tenfold::VoxelArgs<T> args{};                                               \
      args.points = points;                                                       \
      args.n = n;                                                                 \
      args.channels = channels;                                                   \
      args.offsets = offsets;                                                     \
      args.batch = batch;                                                         \
      args.grid = make_grid<T>(lower, size, cells);                               \
      args.max_points = max_points;                                               \
      args.max_voxels = max_voxels;                                               \
      args.mean = mean != 0;                                                      \
      args.copy = copy != 0;                                                      \
      args.validate = true;                                                       \
      args.hash_multiplier = static_cast<uint64_t>(multiplier);                   \
      args.point2voxel = point2voxel;                                             \
      args.allocate = hand_out<T>;                                                \
      args.context = &buffers;                                                    \
      *bad_row = -1;                                                              \
      try {                                                                       \
        tenfold::dispatch::voxelize_##suffix(args);                               \
      } catch (const TooFewRows&) {                                               \
        return kRefused;                                                          \
      }                                                                           \
      if (args.bad_row >= 0) {                                                    \
        *bad_row = args.bad_row;                                                  \
        return kRefused;                                                          \
      }                                                                           \
      for (int i = 0; i < 3; ++i) dropped[i] = args.dropped[i];                   \
      return args.count;                                                          \
    });                                                                           \
  }

TENFOLD_DEFINE_VOXELIZE(f32, float)
TENFOLD_DEFINE_VOXELIZE(f64, double)
