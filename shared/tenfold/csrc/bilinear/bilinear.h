// Feature maps read at fractional positions: contract in tenfold-core 6.15.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

enum class Border : int { zero = 0, clamp = 1, parity = 2 };

template <class T>
struct BilinearArgs {
  const T* feat;  // (batch, channels, height, width), or channels last
  bool channels_last;
  const T* uv;           // (batch, n, 2)
  const uint8_t* valid;  // (batch, n) or null
  int64_t batch, n, channels, height, width;
  Border border;
  bool validate;
  Parallel parallel;
  T* out;             // (batch, n, channels) out
  const T* grad;      // backward: (batch, n, channels)
  T* grad_feat;       // backward out: (batch, channels, height, width) or null
  T* grad_uv;         // backward out: (batch, n, 2) or null
  int64_t bad_batch;  // out: first position that is valid and not finite, or -1
  int64_t bad_row;
};

}  // namespace tenfold

TENFOLD_KERNEL(bilinear_f32, BilinearArgs<float>)
TENFOLD_KERNEL(bilinear_f64, BilinearArgs<double>)
TENFOLD_KERNEL(bilinear_backward_f32, BilinearArgs<float>)
TENFOLD_KERNEL(bilinear_backward_f64, BilinearArgs<double>)
