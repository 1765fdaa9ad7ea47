// Rows of a pair of boxes as solids, and gradients back as rows: shared by every device.
#pragma once
#include "iou/boundary.h"
#include "iou/extent.h"
#include "iou/rotated_loss.h"

TENFOLD_BEGIN

TENFOLD_HD static inline Enclosure enclosure_of(LossKind kind) {
  return kind == LossKind::iou ? Enclosure::none : kind == LossKind::giou ? Enclosure::hull : Enclosure::diagonal;
}

// Column of a flat box in a Solid.
TENFOLD_HD static inline int flat_column(int k) { return k < 2 ? k : k == 4 ? kYaw : k + 1; }

template <class T>
TENFOLD_HD Solid solid_of(const T* row, int columns) {
  Solid b{{0, 0, 0, 1, 1, 1, 0}, 1, 0};
  for (int k = 0; k < columns; ++k) b.v[columns == 7 ? k : flat_column(k)] = row[k];
  cosine_sine(b.v[kYaw], b.c, b.s);
  return b;
}

template <class T>
TENFOLD_HD bool pair_has_extent(const RotatedLossArgs<T>& a, int64_t i) {
  const RectFormat format{a.columns, false, a.columns == 7};
  return box_extent(a.pred + i * a.columns, format) == Extent::full &&
         box_extent(a.target + i * a.columns, format) == Extent::full;
}

template <class T>
TENFOLD_HD void write_gradient(T* row, int columns, const double* g, double factor) {
  for (int k = 0; k < columns; ++k) row[k] = static_cast<T>(g[columns == 7 ? k : flat_column(k)] * factor);
}

TENFOLD_END
