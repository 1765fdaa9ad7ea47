// NaN and infinities, told apart without a library call and alike on every device.
#pragma once
#include "common/isa.h"

TENFOLD_BEGIN

template <class T>
TENFOLD_HD static inline bool is_finite(T v) {
  return v - v == T(0);
}

TENFOLD_END
