// Pixels and weights of one sampled position: the arithmetic that every device shares.
#pragma once
#include <cmath>

#include "bilinear/bilinear.h"
#include "common/finite.h"

TENFOLD_BEGIN

template <class T>
struct Corners {
  int32_t pixel[4];  // row-major: upper left, upper right, lower left, lower right
  T weight[4];
  T x[2], y[2];      // weights along each axis, which are the slopes along the other
  T inside[4];       // 0 where "zero" leaves a corner out
  T slope_x, slope_y;  // 0 where "clamp" has moved the position
  bool used;
};

struct Axis {
  int32_t low, high;
  bool low_in, high_in;
};

// Indices and weights along one axis; u is finite.
template <class T>
TENFOLD_HD Axis along(T u, int64_t size, Border border, T* weight, T& slope) {
  const T last = static_cast<T>(size - 1);
  slope = 1;
  if (border == Border::clamp) {
    slope = u >= 0 && u <= last ? T(1) : T(0);
    u = u < 0 ? T(0) : u > last ? last : u;
  }
  T low = std::floor(u);
  low = low < -2 ? T(-2) : low > static_cast<T>(size) ? static_cast<T>(size) : low;
  T high = low + 1;
  const auto clamped = [&](T v) { return v < 0 ? T(0) : v > last ? last : v; };
  Axis axis{0, 0, true, true};
  if (border == Border::parity) {
    low = clamped(low);
    high = clamped(high);
  }
  weight[0] = high - u;
  weight[1] = u - low;
  if (border == Border::zero) {
    axis.low_in = low >= 0 && low <= last;
    axis.high_in = high >= 0 && high <= last;
    if (!axis.low_in) weight[0] = 0;
    if (!axis.high_in) weight[1] = 0;
  }
  axis.low = static_cast<int32_t>(clamped(low));
  axis.high = static_cast<int32_t>(clamped(high));
  return axis;
}

template <class T>
TENFOLD_HD Corners<T> corners_of(const BilinearArgs<T>& a, int64_t row) {
  Corners<T> c{};
  const T u = a.uv[2 * row], v = a.uv[2 * row + 1];
  c.used = (a.valid == nullptr || a.valid[row] != 0) && is_finite(u) && is_finite(v);
  if (!c.used) return c;
  const Axis x = along(u, a.width, a.border, c.x, c.slope_x);
  const Axis y = along(v, a.height, a.border, c.y, c.slope_y);
  const int32_t width = static_cast<int32_t>(a.width);
  const int32_t pixel[4] = {y.low * width + x.low, y.low * width + x.high, y.high * width + x.low,
                            y.high * width + x.high};
  const bool in[4] = {y.low_in && x.low_in, y.low_in && x.high_in, y.high_in && x.low_in, y.high_in && x.high_in};
  for (int k = 0; k < 4; ++k) {
    c.pixel[k] = pixel[k];
    c.weight[k] = c.y[k / 2] * c.x[k % 2];
    c.inside[k] = in[k] ? T(1) : T(0);
  }
  return c;
}

TENFOLD_END
