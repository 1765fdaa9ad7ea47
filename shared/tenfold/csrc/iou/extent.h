// Which boxes have an extent: the arithmetic that every device shares.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/isa.h"

TENFOLD_BEGIN

// How a row of 5 (x, y, dx, dy, yaw) or 7 (x, y, z, dx, dy, dz, yaw) columns is read.
struct RectFormat {
  int columns;
  bool aligned;  // the yaw is ignored
  bool volume;   // a box without height has no extent either
};

enum class Extent { full, none, not_finite };

// Classifies a box. Sizes <= 0 and products that leave the range of double make a box without extent.
template <class T>
TENFOLD_HD Extent box_extent(const T* row, const RectFormat& format) {
  double sum = 0.0;  // 0 * x is 0 for finite x, else NaN
  for (int k = 0; k < format.columns; ++k) sum += 0.0 * static_cast<double>(row[k]);
  if (!(sum == 0.0)) return Extent::not_finite;
  const int size = format.columns == 7 ? 3 : 2;
  const double w = row[size], l = row[size + 1];
  if (!(w > 0.0 && l > 0.0)) return Extent::none;
  double product = w * l;
  if (format.volume) {
    if (!(static_cast<double>(row[5]) > 0.0)) return Extent::none;
    product *= static_cast<double>(row[5]);
  }
  return product > 0.0 && product < HUGE_VAL && w * l < HUGE_VAL ? Extent::full : Extent::none;
}

template <class T>
struct BoxRows {
  const T* boxes;
  int64_t count;
  RectFormat format;
};

// Validation of two lists of boxes, where `first_bad` finds the first row of a list that is not finite, or -1. Notes it
// in bad_which and bad_row.
template <class Args, class T, class F>
bool boxes_finite(Args& args, const BoxRows<T>& first, const BoxRows<T>& second, F first_bad) {
  args.bad_row = -1;
  for (args.bad_which = 0; args.validate && args.bad_which < 2; ++args.bad_which) {
    args.bad_row = first_bad(args.bad_which == 0 ? first : second);
    if (args.bad_row >= 0) return false;
  }
  return true;
}

TENFOLD_END
