// Greedy non-maximum suppression of axis-aligned boxes: contract in tenfold-core 6.1.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

template <class T>
struct NmsArgs {
  const T* boxes;            // (n, 4) x1 y1 x2 y2
  const T* scores;           // (n,)
  const int64_t* labels;     // (n,) or null: one group
  const int64_t* batch;      // (n,) or null; groups are the distinct (batch, label)
  int64_t n;                 // < 2^31
  double iou_threshold;      // suppress when fl(iou) > threshold
  double score_threshold;    // keep scores > threshold, where use_score_threshold
  bool use_score_threshold;
  int64_t max_out;           // over all groups; < 0: no limit
  bool validate;
  Parallel parallel;
  int32_t* keep;             // (n,) work space; out: the kept rows, best first, in its first `kept` places
  int64_t kept;              // out
  int32_t* kept_count;  // CUDA, out: the number on the device, in the place of `kept`
  int64_t bad_row;           // out: first row that fails validation, or -1
  int bad_what;              // out: 1 non-finite box, 2 inverted box, 3 NaN score
};

}  // namespace tenfold

TENFOLD_KERNEL(nms_f32, NmsArgs<float>)
TENFOLD_KERNEL(nms_f64, NmsArgs<double>)
