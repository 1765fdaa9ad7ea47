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

// Whether a box takes part.
TENFOLD_HD static inline bool is_drawn(const TtfTargetsArgs& a, const float* b, int64_t label) {
  return label >= 0 && label < a.classes && is_finite(b[0]) && is_finite(b[1]) && is_finite(b[2]) && is_finite(b[3]) &&
         b[2] > b[0] && b[3] > b[1];
}

TENFOLD_HD static inline double area_of(const float* b) {
  return (static_cast<double>(b[2]) - b[0]) * (static_cast<double>(b[3]) - b[1]);
}

// Centre and sides of a box in cells of the map.
struct BoxPlace {
  int64_t cx, cy;
  double w, h;
  bool near;  // a centre that is not cannot reach the map: radii are below its distance
};

TENFOLD_HD static inline BoxPlace place_of(const TtfTargetsArgs& a, const float* b) {
  BoxPlace p{};
  const double stride = static_cast<double>(a.stride);
  const double x1 = b[0], y1 = b[1], x2 = b[2], y2 = b[3];
  const double middle_x = floor((x1 + x2) / 2 / stride), middle_y = floor((y1 + y2) / 2 / stride);
  p.w = clipped_side(x1 / stride, x2 / stride, a.width);
  p.h = clipped_side(y1 / stride, y2 / stride, a.height);
  if (a.circular) p.w = p.h = p.w < p.h ? p.w : p.h;
  const double far = 1e3 * static_cast<double>(a.width + a.height) + 2;
  p.near = fabs(middle_x) <= far && fabs(middle_y) <= far;
  if (!p.near) return p;
  p.cx = static_cast<int64_t>(middle_x);
  p.cy = static_cast<int64_t>(middle_y);
  return p;
}

// What kernel values are multiplied by; `sum` of them over the cells.
TENFOLD_HD static inline float scale_of(const TtfTargetsArgs& a, double area, double sum) {
  return a.weight == CellWeight::one ? 1.0f : static_cast<float>(importance_of(area, a.importance) / sum);
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
  if (!is_drawn(a, b, label)) return p;
  p.area = area_of(b);
  const BoxPlace at = place_of(a, b);
  if (!at.near) return p;
  p.used = 1;
  p.heat_x = kernel_span(at.cx, a.alpha * at.w, a.width);
  p.heat_y = kernel_span(at.cy, a.alpha * at.h, a.height);
  p.x = kernel_span(at.cx, a.beta * at.w, a.width);
  p.y = kernel_span(at.cy, a.beta * at.h, a.height);
  const int64_t columns = p.x.end - p.x.begin, rows = p.y.end - p.y.begin;
  if (columns <= 0 || rows <= 0) return p;
  const bool gaussian = a.weight == CellWeight::gaussian;
  p.scale = scale_of(a, p.area, gaussian ? p.y.sum() * p.x.sum() : static_cast<double>(columns * rows));
  return p;
}

TENFOLD_END
