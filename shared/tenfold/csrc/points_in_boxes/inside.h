// The test of a point against a rotated box: the arithmetic that every device shares.
#pragma once
#include <cmath>

#include "common/finite.h"

TENFOLD_BEGIN

template <class T>
struct PlacedBox {
  T center[3];
  T half[3];  // margins included
  T cosine, sine;
};

// Whether a box can hold a point at all.
template <class T>
TENFOLD_HD static inline bool usable(const T* b) {
  for (int c = 0; c < 7; ++c)
    if (!is_finite(b[c])) return false;
  return b[3] > 0 && b[4] > 0 && b[5] > 0;
}

template <class T>
TENFOLD_HD static inline void place_box(const T* b, T margin, T z_margin, PlacedBox<T>& box) {
  for (int a = 0; a < 3; ++a) {
    box.center[a] = b[a];
    box.half[a] = b[3 + a] / 2 + (a < 2 ? margin : z_margin);
  }
  box.cosine = static_cast<T>(cos(static_cast<double>(b[6])));
  box.sine = static_cast<T>(sin(static_cast<double>(b[6])));
}

template <class T>
TENFOLD_HD static inline bool inside_box(const PlacedBox<T>& box, T x, T y, T z) {
  const T dx = x - box.center[0];
  const T dy = y - box.center[1];
  const T dz = z - box.center[2];
  const T lx = dx * box.cosine + dy * box.sine;
  const T ly = dy * box.cosine - dx * box.sine;
  return (fabs(lx) < box.half[0]) & (fabs(ly) < box.half[1]) & (fabs(dz) <= box.half[2]);
}

TENFOLD_END
