#include "boxes.h"
#include "iou/iou.h"
#include "iou/rotated_loss.h"

using namespace tenfold;
using native::finite;
using native::ground_boxes;

namespace {

// Values of paired boxes with 7 columns.
std::vector<double> paired(const std::vector<double>& pred, const std::vector<double>& target, LossKind kind) {
  const int64_t n = static_cast<int64_t>(pred.size() / 7);
  std::vector<double> value(n);
  if (kind == LossKind::diou) {
    RotatedLossArgs<double> a{};
    a.pred = pred.data();
    a.target = target.data();
    a.n = n;
    a.columns = 7;
    a.kind = kind;
    a.value = value.data();
    KERNEL(rotated_diou_f64)(a);
  } else {
    BoxIouArgs<double> a{};
    a.a = pred.data();
    a.b = target.data();
    a.n = a.m = n;
    a.a_columns = a.b_columns = 7;
    a.kind = IouKind::volume;
    a.mode = kind == LossKind::giou ? IouMode::giou : IouMode::iou;
    a.paired = true;
    a.out = value.data();
    KERNEL(box_iou_f64)(a);
  }
  return value;
}

}  // namespace

// Gradients against differences of the values, where those to both sides agree: elsewhere there is a kink.
NATIVE_TEST(rotated_loss) {
  const int64_t n = random.size(30);
  const auto pred = ground_boxes<double>(random, n, random.chance(0.3) ? 0.03 : 0.0);
  const auto target = ground_boxes<double>(random, n, 0.0);
  const auto grad = random.floats<double>(n, 1);
  std::vector<double> grad_pred(7 * n), grad_target(7 * n);
  RotatedLossArgs<double> a{};
  a.pred = pred.data();
  a.target = target.data();
  a.n = n;
  a.columns = 7;
  a.kind = random.pick({LossKind::iou, LossKind::giou, LossKind::diou});
  a.grad = grad.data();
  a.grad_pred = grad_pred.data();
  a.grad_target = grad_target.data();
  a.parallel = native::parallel(random);
  KERNEL(rotated_iou_backward_f64)(a);
  constexpr double kStep = 1e-6;
  const auto here = paired(pred, target, a.kind);
  for (const bool moves_pred : {true, false}) {
    const auto& own = moves_pred ? pred : target;
    const auto& slope = moves_pred ? grad_pred : grad_target;
    for (int d = 0; d < 7; ++d) {
      auto up = own, down = own;
      for (int64_t i = 0; i < n; ++i) {
        up[7 * i + d] += kStep;
        down[7 * i + d] -= kStep;
      }
      const auto above = moves_pred ? paired(up, target, a.kind) : paired(pred, up, a.kind);
      const auto below = moves_pred ? paired(down, target, a.kind) : paired(pred, down, a.kind);
      for (int64_t i = 0; i < n; ++i) {
        const double right = (above[i] - here[i]) / kStep, left = (here[i] - below[i]) / kStep;
        bool plain = finite(&pred[7 * i], 7) && finite(&target[7 * i], 7), huge = false;
        for (int side = 3; side < 6; ++side) plain = plain && pred[7 * i + side] > 0.05 && target[7 * i + side] > 0.05;
        for (int column = 0; column < 7; ++column) huge = huge || std::abs(pred[7 * i + column]) > 1e100;
        CHECK(huge || finite(&slope[7 * i], 7));  // the product of such sizes overflows
        if (plain && !huge && std::abs(right - left) < 1e-3)
          CHECK(native::close(slope[7 * i + d], grad[i] * (right + left) / 2, 3e-3));
      }
    }
  }
}
