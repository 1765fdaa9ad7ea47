// Boxes of a tensor as arrays of rectangle fields, ready for vector loads. Used by IoU and suppression.
#pragma once
#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "common/arena.h"
#include "iou/extent.h"
#include "iou/rotated.h"

TENFOLD_BEGIN

template <class T>
int64_t first_not_finite(const BoxRows<T>& rows) {
  for (int64_t i = 0; i < rows.count; ++i)
    if (box_extent(rows.boxes + i * rows.format.columns, rows.format) == Extent::not_finite) return i;
  return -1;
}

struct RectArrays {
  double *cx, *cy, *hx, *hy, *c, *s;
  double* r;  // circumscribed radius, a little too large
};

static inline RectArrays take_rects(Scratch& scratch, int64_t n) {
  RectArrays a;
  for (double** field : {&a.cx, &a.cy, &a.hx, &a.hy, &a.c, &a.s, &a.r}) *field = scratch.take<double>(n);
  return a;
}

// Writes one box; the yaw waits in c for finish_angles.
template <class T>
void put_rect(const RectArrays& a, int64_t at, const T* row, const RectFormat& format) {
  const int size = format.columns == 7 ? 3 : 2;
  const double hx = 0.5 * static_cast<double>(row[size]);
  const double hy = 0.5 * static_cast<double>(row[size + 1]);
  a.cx[at] = row[0];
  a.cy[at] = row[1];
  a.hx[at] = hx;
  a.hy[at] = hy;
  a.c[at] = format.aligned ? 0.0 : static_cast<double>(row[format.columns - 1]);
  a.r[at] = radius_above(hx * hx + hy * hy);
}

static inline void finish_angles(const RectArrays& a, int64_t n) {
  for (int64_t i = 0; i < n; i += kWide) {
    const uint32_t lanes = first_bits(n - i);
    const vdouble yaw = load_lanes(a.c + i);
    const uint32_t huge = ~lane_bits(less_equal(magnitude(yaw), splat<vdouble>(kYawLimit))) & lanes;
    vdouble c, s;
    cosine_sine_reduced(yaw, c, s);
    double large[kWide];
    if (huge != 0) store_lanes(large, yaw);
    store_lanes(a.c + i, c);  // arrays end in spare room for a full vector
    store_lanes(a.s + i, s);
    if (huge == 0) continue;
    for (int k = 0; k < kWide; ++k)
      if (huge >> k & 1) cosine_sine(large[k], a.c[i + k], a.s[i + k]);
  }
}

static inline Rect<vdouble> rect_splat(const RectArrays& a, int64_t i) {
  return {splat<vdouble>(a.cx[i]), splat<vdouble>(a.cy[i]), splat<vdouble>(a.hx[i]),
          splat<vdouble>(a.hy[i]), splat<vdouble>(a.c[i]),  splat<vdouble>(a.s[i])};
}

static inline Rect<vdouble> rect_load(const RectArrays& a, int64_t i) {
  return {load_lanes(a.cx + i), load_lanes(a.cy + i), load_lanes(a.hx + i),
          load_lanes(a.hy + i), load_lanes(a.c + i),  load_lanes(a.s + i)};
}

static inline Rect<vdouble> rect_gather(const RectArrays& a, const int32_t* at) {
  return {gather(a.cx, at), gather(a.cy, at), gather(a.hx, at),
          gather(a.hy, at), gather(a.c, at),  gather(a.s, at)};
}

static inline Rect<double> rect_at(const RectArrays& a, int64_t i) {
  return {a.cx[i], a.cy[i], a.hx[i], a.hy[i], a.c[i], a.s[i]};
}

TENFOLD_END
