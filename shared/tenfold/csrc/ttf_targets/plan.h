// How a box is drawn: the arithmetic that every device shares.
#pragma once
#include <cmath>

#include "common/finite.h"
#include "ttf_targets/ttf_targets.h"

TENFOLD_BEGIN

// Cells of a Gaussian along one axis, cropped to the map.
struct KernelSpan {
  int64_t center, begin, end;
  double sigma;
  TENFOLD_HD float value(int64_t i) const {
    const double d = static_cast<double>(i - center);
    return static_cast<float>(exp(-d * d / (2 * sigma * sigma)));
  }
  TENFOLD_HD double sum() const {
    double total = 0;
    for (int64_t i = begin; i < end; ++i) total += static_cast<double>(value(i));
    return total;
  }
};

TENFOLD_HD static inline KernelSpan kernel_span(int64_t center, double extent, int64_t size) {
  const double reach = floor(extent / 2);
  const int64_t radius = static_cast<int64_t>(reach);
  return {center, center - radius < 0 ? 0 : center - radius, center + radius + 1 > size ? size : center + radius + 1,
          (2 * reach + 1) / 6};
}

TENFOLD_HD static inline double clipped_side(double low, double high, int64_t size) {
  const double last = static_cast<double>(size - 1);
  const auto clip = [&](double v) { return v < 0 ? 0.0 : v > last ? last : v; };
  return clip(high) - clip(low);
}

TENFOLD_HD static inline double importance_of(double area, BoxImportance mode) {
  switch (mode) {
    case BoxImportance::log: return log(area) > 0 ? log(area) : 0.0;
    case BoxImportance::root: return sqrt(area);
    case BoxImportance::area: return area;
    default: return 1.0;
  }
}

// One box of an image. CUDA plans all of them before it draws; the CPU draws one after the other.
struct BoxPlan {
  KernelSpan heat_x, heat_y;  // of the heat map
  KernelSpan x, y;            // of the target and the weight; empty where nothing is drawn
  double area;
  int64_t label;
  float scale;
  int32_t used;
};

TENFOLD_HD static inline BoxPlan plan_box(const TtfTargetsArgs& a, const float* b, int64_t label) {
  BoxPlan p{};
  p.label = label;
  if (label < 0 || label >= a.classes) return p;
  if (!(is_finite(b[0]) && is_finite(b[1]) && is_finite(b[2]) && is_finite(b[3]))) return p;
  if (!(b[2] > b[0]) || !(b[3] > b[1])) return p;
  p.area = (static_cast<double>(b[2]) - b[0]) * (static_cast<double>(b[3]) - b[1]);
  const double stride = static_cast<double>(a.stride);
  const double x1 = b[0], y1 = b[1], x2 = b[2], y2 = b[3];
  const double middle_x = floor((x1 + x2) / 2 / stride), middle_y = floor((y1 + y2) / 2 / stride);
  double w = clipped_side(x1 / stride, x2 / stride, a.width), h = clipped_side(y1 / stride, y2 / stride, a.height);
  if (a.circular) w = h = w < h ? w : h;
  const double far = 1e3 * static_cast<double>(a.width + a.height) + 2;
  if (!(fabs(middle_x) <= far && fabs(middle_y) <= far)) return p;
  p.used = 1;
  const int64_t cx = static_cast<int64_t>(middle_x), cy = static_cast<int64_t>(middle_y);
  p.heat_x = kernel_span(cx, a.alpha * w, a.width);
  p.heat_y = kernel_span(cy, a.alpha * h, a.height);
  p.x = kernel_span(cx, a.beta * w, a.width);
  p.y = kernel_span(cy, a.beta * h, a.height);
  const int64_t columns = p.x.end - p.x.begin, rows = p.y.end - p.y.begin;
  if (columns <= 0 || rows <= 0) return p;
  const double omega = importance_of(p.area, a.importance);
  p.scale = a.weight == CellWeight::gaussian ? static_cast<float>(omega / (p.y.sum() * p.x.sum()))
            : a.weight == CellWeight::flat   ? static_cast<float>(omega / static_cast<double>(columns * rows))
                                             : 1.0f;
  return p;
}

TENFOLD_END
