// Paired overlap for losses: DIoU values, and the gradients of IoU, GIoU and DIoU. Contract in tenfold-core 6.13.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

enum class LossKind : int { iou = 0, giou = 1, diou = 2 };

template <class T>
struct RotatedLossArgs {
  const T* pred;    // (n, columns)
  const T* target;  // (n, columns)
  int64_t n;
  int columns;      // 5 or 7
  LossKind kind;
  bool validate;
  Parallel parallel;
  T* value;         // DIoU: (n,) out
  const T* grad;    // gradient: (n,)
  T* grad_pred;     // gradient: (n, columns) out
  T* grad_target;
  int64_t bad_row;  // out: first row that is not finite, or -1
  int bad_which;    // out: 0 pred, 1 target
};

}  // namespace tenfold

TENFOLD_KERNEL(rotated_diou_f32, RotatedLossArgs<float>)
TENFOLD_KERNEL(rotated_diou_f64, RotatedLossArgs<double>)
TENFOLD_KERNEL(rotated_iou_backward_f32, RotatedLossArgs<float>)
TENFOLD_KERNEL(rotated_iou_backward_f64, RotatedLossArgs<double>)
