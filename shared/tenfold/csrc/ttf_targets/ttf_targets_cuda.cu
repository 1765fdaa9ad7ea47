// TTFNet's targets: a thread plans each box (kernels, their sums), a thread for each box and pixel of a heat map raises
// it by an integer maximum (no order matters), a thread for each pixel takes what the smallest box over it says.
#include "ttf_targets/ttf_targets.h"

#include "common/device_check.h"
#include "ttf_targets/plan.h"

namespace tenfold::cuda {
namespace {

using namespace device;

struct BadBox {
  TtfTargetsArgs a;
  int what;  // 1 label, 2 box
  __device__ bool operator()(int64_t i) const {
    if (a.labels[i] < 0) return false;
    if (what == 1) return a.labels[i] >= a.classes;
    const float* b = a.boxes + 4 * i;
    return !(is_finite(b[0]) && is_finite(b[1]) && is_finite(b[2]) && is_finite(b[3]));
  }
};

struct PlanBox {
  TtfTargetsArgs a;
  BoxPlan* plan;
  __device__ void operator()(int64_t i) const { plan[i] = plan_box(a, a.boxes + 4 * i, a.labels[i]); }
};

// Cells of the map are walked by the lanes of a warp; one warp for each box.
__global__ void __launch_bounds__(256) draw_heat(TtfTargetsArgs a, const BoxPlan* plan) {
  const int64_t i = int64_t{blockIdx.x} * (256 / kWarpLanes) + warp();
  if (i >= a.batch * a.boxes_per_image) return;
  const BoxPlan& p = plan[i];
  if (p.used == 0) return;
  const int64_t image = i / a.boxes_per_image, columns = p.heat_x.end - p.heat_x.begin;
  const int64_t rows = p.heat_y.end - p.heat_y.begin;
  if (columns <= 0 || rows <= 0) return;
  float* heat = a.heat + (image * a.classes + p.label) * a.height * a.width;
  for (int64_t at = lane(); at < columns * rows; at += kWarpLanes) {
    const int64_t y = p.heat_y.begin + at / columns, x = p.heat_x.begin + at % columns;
    const float value = p.heat_y.value(y) * p.heat_x.value(x);
    union { float f; int32_t i; } bits{value};
    // Numbers that are not negative are ordered as integers.
    atomicMax(reinterpret_cast<int32_t*>(heat + y * a.width + x), bits.i);
  }
}

struct TakeBox {
  TtfTargetsArgs a;
  const BoxPlan* plan;
  __device__ void operator()(int64_t at) const {
    const int64_t cells = a.height * a.width, image = at / cells, cell = at % cells;
    const int64_t y = cell / a.width, x = cell % a.width;
    int64_t best = -1;
    for (int64_t m = 0; m < a.boxes_per_image; ++m) {
      const BoxPlan& p = plan[image * a.boxes_per_image + m];
      if (p.used == 0 || x < p.x.begin || x >= p.x.end || y < p.y.begin || y >= p.y.end) continue;
      // Drawn last: the smallest area, the highest row of equal ones.
      if (best < 0 || p.area <= plan[image * a.boxes_per_image + best].area) best = m;
    }
    float weight = 0;
    const float* box = nullptr;
    if (best >= 0) {
      const BoxPlan& p = plan[image * a.boxes_per_image + best];
      weight = a.weight == CellWeight::gaussian ? p.y.value(y) * p.x.value(x) * p.scale : p.scale;
      box = a.boxes + 4 * (image * a.boxes_per_image + best);
    }
    a.weight_map[at] = weight;
    for (int side = 0; side < 4; ++side)
      a.target[(image * 4 + side) * cells + cell] = box != nullptr ? box[side] : 0.0f;
  }
};

}  // namespace

void ttf_targets(TtfTargetsArgs& a) {
  const Stream& stream = *a.parallel.stream;
  const int64_t boxes = a.batch * a.boxes_per_image, cells = a.batch * a.height * a.width;
  for (a.bad_what = 1; a.validate && a.bad_what <= 2; ++a.bad_what) {
    const int64_t bad = first_bad(stream, boxes, BadBox{a, a.bad_what});
    if (bad < 0) continue;
    a.bad_image = bad / a.boxes_per_image;
    a.bad_row = bad % a.boxes_per_image;
    return;
  }
  a.bad_what = 0;
  fill_device(stream, a.heat, 0, a.classes * cells * 4);
  if (cells == 0) return;
  auto* plan = stream.scratch<BoxPlan>(boxes);
  each("ttf_plan", stream, boxes, PlanBox{a, plan});
  TENFOLD_LAUNCH(draw_heat, blocks_for(boxes, 256 / kWarpLanes), 256, stream, a, static_cast<const BoxPlan*>(plan));
  each("ttf_take", stream, cells, TakeBox{a, plan});
}

}  // namespace tenfold::cuda
