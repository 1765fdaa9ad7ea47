// Paired overlap for losses: a thread for each pair, with the arithmetic of the CPU kernel in float64.
#include "iou/rotated_loss.h"

#include "iou/device_rects.h"
#include "iou/pair.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
struct Distance {
  RotatedLossArgs<T> a;
  __device__ void operator()(int64_t i) const {
    T value = T(0);
    if (pair_has_extent(a, i))
      value = static_cast<T>(distance_iou(solid_of(a.pred + i * a.columns, a.columns),
                                          solid_of(a.target + i * a.columns, a.columns), a.columns == 5));
    a.value[i] = value;
  }
};

template <class T>
void diou(RotatedLossArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const RectFormat format{a.columns, false, a.columns == 7};
  if (!boxes_finite(stream, a, BoxRows<T>{a.pred, a.n, format}, BoxRows<T>{a.target, a.n, format})) return;
  each("rotated_diou", stream, a.n, Distance<T>{a});
}

template <class T>
struct Gradients {
  RotatedLossArgs<T> a;
  Enclosure enclosure;
  __device__ void operator()(int64_t i) const {
    double gp[7] = {}, gt[7] = {};
    if (pair_has_extent(a, i))
      overlap_gradients(solid_of(a.pred + i * a.columns, a.columns), solid_of(a.target + i * a.columns, a.columns),
                        enclosure, a.columns == 5, gp, gt);
    const double factor = a.grad[i];
    write_gradient(a.grad_pred + i * a.columns, a.columns, gp, factor);
    write_gradient(a.grad_target + i * a.columns, a.columns, gt, factor);
  }
};

template <class T>
void backward(RotatedLossArgs<T>& a) {
  each("rotated_iou_backward", *a.parallel.stream, a.n, Gradients<T>{a, enclosure_of(a.kind)});
}

}  // namespace

void rotated_diou_f32(RotatedLossArgs<float>& args) { diou(args); }
void rotated_diou_f64(RotatedLossArgs<double>& args) { diou(args); }
void rotated_iou_backward_f32(RotatedLossArgs<float>& args) { backward(args); }
void rotated_iou_backward_f64(RotatedLossArgs<double>& args) { backward(args); }

}  // namespace tenfold::cuda
