#include "iou/rotated_loss.h"

#include "iou/boundary.h"
#include "iou/pair.h"
#include "iou/rects.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kPairsPerTask = 512;

template <class T>
void diou(RotatedLossArgs<T>& a) {
  const RectFormat format{a.columns, false, a.columns == 7};
  const BoxRows<T> pred{a.pred, a.n, format}, target{a.target, a.n, format};
  if (!boxes_finite(a, pred, target, first_not_finite<T>)) return;
  parallel_ranges(a.parallel, a.n, kPairsPerTask, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      a.value[i] = 0;
      if (!pair_has_extent(a, i)) continue;
      const Solid p = solid_of(a.pred + i * a.columns, a.columns), t = solid_of(a.target + i * a.columns, a.columns);
      a.value[i] = static_cast<T>(distance_iou(p, t, a.columns == 5));
    }
  });
}

template <class T>
void backward(RotatedLossArgs<T>& a) {
  const Enclosure enclosure = enclosure_of(a.kind);
  parallel_ranges(a.parallel, a.n, kPairsPerTask, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double gp[7] = {}, gt[7] = {};
      if (pair_has_extent(a, i)) {
        const Solid p = solid_of(a.pred + i * a.columns, a.columns), t = solid_of(a.target + i * a.columns, a.columns);
        overlap_gradients(p, t, enclosure, a.columns == 5, gp, gt);
      }
      const double factor = a.grad[i];
      write_gradient(a.grad_pred + i * a.columns, a.columns, gp, factor);
      write_gradient(a.grad_target + i * a.columns, a.columns, gt, factor);
    }
  });
}

}  // namespace

void rotated_diou_f32(RotatedLossArgs<float>& args) { diou(args); }
void rotated_diou_f64(RotatedLossArgs<double>& args) { diou(args); }
void rotated_iou_backward_f32(RotatedLossArgs<float>& args) { backward(args); }
void rotated_iou_backward_f64(RotatedLossArgs<double>& args) { backward(args); }

TENFOLD_END
