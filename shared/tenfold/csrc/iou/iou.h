// IoU of rotated boxes, all pairs, paired rows and sparse pairs: contract in tenfold-core 6.12.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

enum class IouKind : int { bev = 0, volume = 1, aligned_volume = 2 };
enum class IouMode : int { iou = 0, inter = 1, iof = 2, giou = 3 };

template <class T>
struct BoxIouArgs {
  const T* a;  // (n, a_columns)
  const T* b;  // (m, b_columns)
  int64_t n, m;
  int a_columns, b_columns;  // 5 or 7; 7 for volumes
  IouKind kind;
  IouMode mode;
  bool paired;  // n == m, row i with row i
  bool validate;
  Parallel parallel;
  T* out;           // (n, m), or (n,) when paired
  int64_t bad_row;  // out: first row that is not finite, or -1
  int bad_which;    // out: 0 a, 1 b
};

template <class T>
struct PairsIouArgs {
  const T* a;
  const T* b;
  int64_t n, m;
  int a_columns, b_columns;
  double threshold;  // pairs with iou > threshold
  bool validate;
  Parallel parallel;
  // Called once `count` is known, outside parallel regions: sets what follows.
  void (*allocate)(PairsIouArgs& args);
  void* owner;
  int64_t count;         // out: pairs
  int64_t* count_there;  // CUDA: where `count` goes on the device, if the host need not know it
  int64_t room;          // pairs that i, j and iou hold; those behind are left out
  int64_t* i;
  int64_t* j;
  T* iou;
  int64_t bad_row;
  int bad_which;
};

}  // namespace tenfold

TENFOLD_KERNEL(box_iou_f32, BoxIouArgs<float>)
TENFOLD_KERNEL(box_iou_f64, BoxIouArgs<double>)
TENFOLD_KERNEL(pairs_iou_f32, PairsIouArgs<float>)
TENFOLD_KERNEL(pairs_iou_f64, PairsIouArgs<double>)
