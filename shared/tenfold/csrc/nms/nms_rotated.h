// Greedy non-maximum suppression of rotated boxes: contract in tenfold-core 6.2.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

enum class NmsMetric : int { bev = 0, volume = 1, aligned_bev = 2 };

template <class T>
struct NmsRotatedArgs {
  const T* boxes;  // (n, columns)
  int columns;     // 5 or 7; 7 for volumes
  const T* scores;        // (n,)
  const int64_t* labels;  // (n,) or null: boxes of different labels do not meet
  const int64_t* batch;   // (n,) or null: likewise, and the limits hold per element
  int64_t n;
  NmsMetric metric;
  double iou_threshold;  // suppress when iou, rounded to T, > threshold
  int64_t pre_max;       // < 0: no limit
  int64_t post_max;
  bool validate;
  Parallel parallel;
  int32_t* keep;    // (n,) out: kept rows, best first
  int64_t kept;     // out
  int32_t* kept_count;  // CUDA, out: the number on the device, in the place of `kept`
  int64_t bad_row;  // out: first row that fails validation, or -1
  int bad_what;     // out: 1 box not finite, 2 NaN score
};

}  // namespace tenfold

TENFOLD_KERNEL(nms_rotated_f32, NmsRotatedArgs<float>)
TENFOLD_KERNEL(nms_rotated_f64, NmsRotatedArgs<double>)
