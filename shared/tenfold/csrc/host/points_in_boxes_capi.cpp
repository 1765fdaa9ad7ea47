#include "host/points_in_boxes_capi.h"

#include "points_in_boxes/points_in_boxes.h"

namespace tenfold::host {
namespace {

static_assert(kBoxPiece == 32768, "tenfold.host sizes `place` by it");

template <class T, class Kernel>
int64_t run(Kernel kernel, int64_t n, const T* points, int64_t m, const T* boxes, double margin, double z_margin,
            int64_t output, int32_t* first, uint8_t* mask, int64_t* place, int32_t* point, int64_t* bad) {
  return guarded([&]() -> int64_t {
    const BoxElement element{0, n, n, 0, m, m};
    PointsInBoxesArgs<T> args{};
    args.points = points;
    args.boxes = boxes;
    args.elements = &element;
    args.num_elements = 1;
    args.global_index = true;
    args.margin = margin;
    args.z_margin = z_margin;
    args.output = static_cast<BoxOutput>(output);
    args.validate = args.output != BoxOutput::fill;
    args.first = first;
    args.mask = mask;
    args.mask_columns = n;
    args.place = place;
    args.point = point;
    kernel(args);
    if (args.bad_what == 0) return 0;
    bad[0] = args.bad_what - 1;
    bad[1] = args.bad_row;
    return 1;
  });
}

}  // namespace
}  // namespace tenfold::host

TENFOLD_HOST_POINTS_IN_BOXES(f32, float) {
  return tenfold::host::run(tenfold::dispatch::points_in_boxes_f32, n, points, m, boxes, margin, z_margin, output,
                            first, mask, place, point, bad);
}

TENFOLD_HOST_POINTS_IN_BOXES(f64, double) {
  return tenfold::host::run(tenfold::dispatch::points_in_boxes_f64, n, points, m, boxes, margin, z_margin, output,
                            first, mask, place, point, bad);
}
