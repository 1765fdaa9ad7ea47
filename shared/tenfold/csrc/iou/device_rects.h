// Boxes on the device with what every pair needs of them.
#pragma once
#include "common/device_check.h"
#include "iou/extent.h"
#include "iou/rotated.h"

namespace tenfold::device {

template <class T>
struct BoxNotFinite {
  BoxRows<T> rows;
  __device__ bool operator()(int64_t i) const {
    return box_extent(rows.boxes + i * rows.format.columns, rows.format) == Extent::not_finite;
  }
};
template <class Args, class T>
bool boxes_finite(const Stream& stream, Args& args, const BoxRows<T>& first, const BoxRows<T>& second) {
  return ::tenfold::boxes_finite(args, first, second, [&stream](const BoxRows<T>& rows) {
    return first_bad(stream, rows.count, BoxNotFinite<T>{rows});
  });
}

struct DeviceRect {
  Rect<double> rect;
  double z, h;      // centre and half height, where there are any
  double radius;    // circumscribed, a little too large
  int64_t full;     // it has an extent
};

template <class T>
struct PrepareRect {
  const T* boxes;
  RectFormat format;
  DeviceRect* to;
  __device__ void operator()(int64_t i) const {
    const T* row = boxes + i * format.columns;
    const int size = format.columns == 7 ? 3 : 2;
    DeviceRect r{};
    r.full = box_extent(row, format) == Extent::full;
    r.rect.c = 1;
    if (r.full != 0) {
      r.rect.cx = row[0];
      r.rect.cy = row[1];
      r.rect.hx = 0.5 * static_cast<double>(row[size]);
      r.rect.hy = 0.5 * static_cast<double>(row[size + 1]);
      cosine_sine(format.aligned ? 0.0 : static_cast<double>(row[format.columns - 1]), r.rect.c, r.rect.s);
      r.radius = radius_above(r.rect.hx * r.rect.hx + r.rect.hy * r.rect.hy);
      if (format.columns == 7) {
        r.z = row[2];
        r.h = 0.5 * static_cast<double>(row[5]);
      }
    }
    to[i] = r;
  }
};

template <class T>
const DeviceRect* prepare_rects(const Stream& stream, const T* boxes, int64_t n, const RectFormat& format) {
  auto* rects = stream.scratch<DeviceRect>(n);
  each("prepare_rects", stream, n, PrepareRect<T>{boxes, format, rects});
  return rects;
}

// Whether two boxes can overlap: both have an extent and their circles touch.
__device__ __forceinline__ bool may_touch(const DeviceRect& a, const DeviceRect& b) {
  const double dx = b.rect.cx - a.rect.cx, dy = b.rect.cy - a.rect.cy, reach = a.radius + b.radius;
  return a.full != 0 && b.full != 0 && dx * dx + dy * dy <= reach * reach;
}

}  // namespace tenfold::device
