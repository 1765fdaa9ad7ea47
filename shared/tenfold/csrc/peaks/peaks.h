// Local maxima of heat maps: contract in tenfold-core 6.3.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

template <class T>
struct PeaksAtArgs {
  const T* heat;  // (planes, height, width)
  int64_t planes, height, width;
  int kernel;     // odd
  Parallel parallel;
  uint8_t* out;   // (planes, height, width)
};

template <class T>
struct TopkPeaksArgs {
  const T* heat;   // (groups, planes, height, width)
  int64_t groups;  // each has its own list of k peaks
  int64_t planes, height, width;
  int kernel;
  int64_t k;
  double threshold;  // strict
  Parallel parallel;
  T* scores;        // (groups, k) out: descending, then by place; -inf behind the last peak
  int64_t* place;   // (groups, k) out: index in the group, or -1
};

}  // namespace tenfold

TENFOLD_KERNEL(peaks_at_f32, PeaksAtArgs<float>)
TENFOLD_KERNEL(peaks_at_f64, PeaksAtArgs<double>)
TENFOLD_KERNEL(topk_peaks_f32, TopkPeaksArgs<float>)
TENFOLD_KERNEL(topk_peaks_f64, TopkPeaksArgs<double>)
