// Resampling, one output row after the other: rows are summed along y first, then shifted copies of the sum along x.
#include <algorithm>
#include <numeric>

#include "fir/fir.h"
#include "fir/rows.h"

TENFOLD_BEGIN

namespace {

template <class T>
void resample(UpfirdnArgs<T>& a) {
  const int64_t period = std::lcm(a.x_axis.up, a.x_axis.down);
  const int64_t work = 2 * a.filter.height * std::max(a.out_width, a.in_width);
  const PlaneTasks split(a.planes, a.out_height, work);
  parallel_ranges(a.parallel, a.planes * split.blocks, split.group, [&](int64_t, int64_t begin, int64_t end) {
    Scratch scratch;
    RowSource<T> source(scratch, a.filter, a.gain, a.y_axis, a.x_axis, period, a.in_height, a.in_width, a.out_width);
    const RowPlan& plan = source.plan();
    T* arrays = plan.arrays_out > 1 ? scratch.take<T>(plan.out_row_size()) : nullptr;
    int64_t plane = -1;
    for (int64_t task = begin; task < end; ++task) {
      if (task / split.blocks != plane) {
        plane = task / split.blocks;
        source.set_plane(a.x + plane * a.in_height * a.in_width, T(0));
      }
      const int64_t first = task % split.blocks * split.block_rows;
      for (int64_t j = first; j < std::min(first + split.block_rows, a.out_height); ++j) {
        T* to = a.out + (plane * a.out_height + j) * a.out_width;
        source.row(j, arrays == nullptr ? to : arrays, plan.out_stride, [](int64_t) { return Same<T>{}; });
        if (arrays != nullptr) join_row(arrays, plan.arrays_out, plan.out_stride, to, a.out_width);
      }
    }
  });
}

}  // namespace

void upfirdn2d_f32(UpfirdnArgs<float>& args) { resample(args); }
void upfirdn2d_f64(UpfirdnArgs<double>& args) { resample(args); }

TENFOLD_END
