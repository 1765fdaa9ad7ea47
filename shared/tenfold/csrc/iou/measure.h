// From intersections to IoU, IoF and GIoU: the arithmetic that every device shares.
#pragma once
#include "iou/iou.h"
#include "iou/rotated.h"

TENFOLD_BEGIN

// IoU, intersection or intersection over a, from the sizes (areas or volumes) of both boxes.
template <class V>
TENFOLD_HD V overlap_measure(IouMode mode, V inter, V size_a, V size_b) {
  if (mode == IouMode::inter) return inter;
  if (mode == IouMode::iof) return inter / size_a;
  return over_union(inter, size_a, size_b);
}

// GIoU of two boxes with extent; every pair has one, overlapping or not, so this path is scalar.
template <class T>
TENFOLD_HD double giou(const BoxIouArgs<T>& args, const Rect<double>& first, const Rect<double>& second, const T* row_a,
            const T* row_b) {
  mask_of<double> same;
  const bool keep = in_order(first, second, second.cx - first.cx, second.cy - first.cy, same);
  const Rect<double>& a = keep ? first : second;
  const Rect<double>& b = keep ? second : first;
  double inter = intersection_area(a, b, 0.0, true);
  double size_a = rect_area(a);
  double size_b = rect_area(b);
  double hull = args.kind == IouKind::aligned_volume
                    ? interval_span(b.cx - a.cx, a.hx, b.hx) * interval_span(b.cy - a.cy, a.hy, b.hy)
                    : hull_area(a, b);
  if (args.kind != IouKind::bev) {
    const T* lower = keep ? row_a : row_b;
    const T* upper = keep ? row_b : row_a;
    const double dz = static_cast<double>(upper[2]) - static_cast<double>(lower[2]);
    const double ha = 0.5 * static_cast<double>(lower[5]);
    const double hb = 0.5 * static_cast<double>(upper[5]);
    inter *= interval_overlap(dz, ha, hb);
    hull *= interval_span(dz, ha, hb);
    size_a *= 2.0 * ha;
    size_b *= 2.0 * hb;
  }
  const double together = (size_a + size_b) - inter;
  hull = max_of(hull, together);
  return inter / together - (hull - together) / hull;
}

TENFOLD_END
