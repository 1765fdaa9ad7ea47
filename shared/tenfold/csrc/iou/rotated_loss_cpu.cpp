#include "iou/rotated_loss.h"

#include "iou/boundary.h"
#include "iou/rects.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kPairsPerTask = 512;
constexpr int kFlat[5] = {kX, kY, kDx, kDy, kYaw};

template <class T>
Solid solid_of(const T* row, int columns) {
  Solid b{{0, 0, 0, 1, 1, 1, 0}, 1, 0};
  for (int k = 0; k < columns; ++k) b.v[columns == 7 ? k : kFlat[k]] = row[k];
  cosine_sine(b.v[kYaw], b.c, b.s);
  return b;
}

template <class T>
bool pair_has_extent(const RotatedLossArgs<T>& a, int64_t i) {
  const RectFormat format{a.columns, false, a.columns == 7};
  return box_extent(a.pred + i * a.columns, format) == Extent::full &&
         box_extent(a.target + i * a.columns, format) == Extent::full;
}

template <class T>
bool inputs_finite(RotatedLossArgs<T>& a) {
  const RectFormat format{a.columns, false, a.columns == 7};
  a.bad_row = -1;
  for (a.bad_which = 0; a.validate && a.bad_which < 2; ++a.bad_which) {
    const T* boxes = a.bad_which == 0 ? a.pred : a.target;
    for (int64_t i = 0; i < a.n; ++i) {
      if (box_extent(boxes + i * a.columns, format) != Extent::not_finite) continue;
      a.bad_row = i;
      return false;
    }
  }
  return true;
}

template <class T>
void diou(RotatedLossArgs<T>& a) {
  if (!inputs_finite(a)) return;
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
void write(T* row, int columns, const double* g, double factor) {
  for (int k = 0; k < columns; ++k) row[k] = static_cast<T>(g[columns == 7 ? k : kFlat[k]] * factor);
}

template <class T>
void backward(RotatedLossArgs<T>& a) {
  const Enclosure enclosure = a.kind == LossKind::iou    ? Enclosure::none
                              : a.kind == LossKind::giou ? Enclosure::hull
                                                         : Enclosure::diagonal;
  parallel_ranges(a.parallel, a.n, kPairsPerTask, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double gp[7] = {}, gt[7] = {};
      if (pair_has_extent(a, i)) {
        const Solid p = solid_of(a.pred + i * a.columns, a.columns), t = solid_of(a.target + i * a.columns, a.columns);
        overlap_gradients(p, t, enclosure, a.columns == 5, gp, gt);
      }
      const double factor = a.grad[i];
      write(a.grad_pred + i * a.columns, a.columns, gp, factor);
      write(a.grad_target + i * a.columns, a.columns, gt, factor);
    }
  });
}

}  // namespace

void rotated_diou_f32(RotatedLossArgs<float>& args) { diou(args); }
void rotated_diou_f64(RotatedLossArgs<double>& args) { diou(args); }
void rotated_iou_backward_f32(RotatedLossArgs<float>& args) { backward(args); }
void rotated_iou_backward_f64(RotatedLossArgs<double>& args) { backward(args); }

TENFOLD_END
