// Weighted sums of rows by index, and their gradients: contract in tenfold-core 6.8.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/table.h"

namespace tenfold {

template <class T>
struct InterpolateArgs {
  const T* feats;   // (elements, n, channels)
  int64_t channels;
  IndexTable table;
  const T* weight;  // (elements, groups, k)
  Parallel parallel;
  T* out;           // (elements, groups, channels) out
};

template <class T>
struct InterpolateBackwardArgs {
  const T* grad;   // (elements, groups, channels)
  const T* feats;
  int64_t channels;
  IndexTable table;
  const T* weight;
  Parallel parallel;
  T* grad_feats;   // (elements, n, channels) out, or null
  T* grad_weight;  // (elements, groups, k) out, or null
};

}  // namespace tenfold

TENFOLD_KERNEL(interpolate_f32, InterpolateArgs<float>)
TENFOLD_KERNEL(interpolate_f64, InterpolateArgs<double>)
TENFOLD_KERNEL(interpolate_backward_f32, InterpolateBackwardArgs<float>)
TENFOLD_KERNEL(interpolate_backward_f64, InterpolateBackwardArgs<double>)
