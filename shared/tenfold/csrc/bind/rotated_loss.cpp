#include "iou/rotated_loss.h"

#include "bind/common.h"
#include "iou/iou.h"

namespace tenfold::bind {
namespace {

void check_pair(const Tensor& pred, const Tensor& target, int64_t kind) {
  check(pred.dim() == 2 && (pred.size(1) == 5 || pred.size(1) == 7),
        "rotated_iou: pred: expected shape (N, 5) or (N, 7)");
  check(target.dim() == 2 && target.size(0) == pred.size(0) && target.size(1) == pred.size(1),
        "rotated_iou: target: expected the shape of pred");
  check(pred.scalar_type() == ScalarType::Float || pred.scalar_type() == ScalarType::Double,
        "rotated_iou: pred: expected float32 or float64");
  check(target.scalar_type() == pred.scalar_type(), "rotated_iou: target: expected the dtype of pred");
  check(kind >= 0 && kind <= 2, "rotated_iou: kind: expected 0 (iou), 1 (giou) or 2 (diou)");
}

void raise_bad(int64_t row, int which) {
  if (row < 0) return;
  value_error(std::string("rotated_iou: ") + (which == 0 ? "pred" : "target") + ": row " + std::to_string(row) +
              " is not finite; expected finite boxes");
}

template <class T, class Overlap, class Distance>
Tensor value_of(Overlap overlap, Distance distance, const Tensor& pred, const Tensor& target, LossKind kind,
                bool validate) {
  const int64_t n = pred.size(0);
  const int columns = static_cast<int>(pred.size(1));
  Tensor value = new_tensor({n}, pred.scalar_type());
  if (kind == LossKind::diou) {
    RotatedLossArgs<T> args{};
    args.pred = in<T>(pred);
    args.target = in<T>(target);
    args.n = n;
    args.columns = columns;
    args.validate = validate;
    args.parallel = torch_parallel();
    args.value = out<T>(value);
    distance(args);
    raise_bad(args.bad_row, args.bad_which);
    return value;
  }
  BoxIouArgs<T> args{};
  args.a = in<T>(pred);
  args.b = in<T>(target);
  args.n = args.m = n;
  args.a_columns = args.b_columns = columns;
  args.kind = columns == 7 ? IouKind::volume : IouKind::bev;
  args.mode = kind == LossKind::giou ? IouMode::giou : IouMode::iou;
  args.paired = true;
  args.validate = validate;
  args.parallel = torch_parallel();
  args.out = out<T>(value);
  overlap(args);
  raise_bad(args.bad_row, args.bad_which);
  return value;
}

Tensor rotated_iou_op(Tensor pred, Tensor target, int64_t kind, bool validate) {
  check_pair(pred, target, kind);
  const Tensor p = as_contiguous(pred), t = as_contiguous(target);
  const auto k = static_cast<LossKind>(kind);
  if (p.scalar_type() == ScalarType::Float)
    return value_of<float>(dispatch::box_iou_f32, dispatch::rotated_diou_f32, p, t, k, validate);
  return value_of<double>(dispatch::box_iou_f64, dispatch::rotated_diou_f64, p, t, k, validate);
}

template <class T, class Kernel>
std::tuple<Tensor, Tensor> gradients(Kernel kernel, const Tensor& grad, const Tensor& pred, const Tensor& target,
                                     LossKind kind) {
  RotatedLossArgs<T> args{};
  args.pred = in<T>(pred);
  args.target = in<T>(target);
  args.n = pred.size(0);
  args.columns = static_cast<int>(pred.size(1));
  args.kind = kind;
  args.parallel = torch_parallel();
  args.grad = in<T>(grad);
  Tensor grad_pred = new_tensor({pred.size(0), pred.size(1)}, pred.scalar_type());
  Tensor grad_target = new_tensor({pred.size(0), pred.size(1)}, pred.scalar_type());
  args.grad_pred = out<T>(grad_pred);
  args.grad_target = out<T>(grad_target);
  kernel(args);
  return {grad_pred, grad_target};
}

std::tuple<Tensor, Tensor> rotated_iou_backward_op(Tensor grad, Tensor pred, Tensor target, int64_t kind) {
  check_pair(pred, target, kind);
  check(grad.dim() == 1 && grad.size(0) == pred.size(0) && grad.scalar_type() == pred.scalar_type(),
        "rotated_iou_backward: grad: expected shape (N,) and the dtype of pred");
  const Tensor g = as_contiguous(grad), p = as_contiguous(pred), t = as_contiguous(target);
  const auto k = static_cast<LossKind>(kind);
  if (p.scalar_type() == ScalarType::Float) return gradients<float>(dispatch::rotated_iou_backward_f32, g, p, t, k);
  return gradients<double>(dispatch::rotated_iou_backward_f64, g, p, t, k);
}

TENFOLD_CONTRACT(rotated_iou, 1);
TENFOLD_CONTRACT(rotated_iou_backward, 1);

TENFOLD_OPERATORS(m) {
  m.impl("rotated_iou", TENFOLD_BOX(rotated_iou_op));
  m.impl("rotated_iou_backward", TENFOLD_BOX(rotated_iou_backward_op));
}

}  // namespace
}  // namespace tenfold::bind
