// Intersection of two rotated rectangles in float64, shared by IoU, suppression, the host module and CUDA.
//
// The second rectangle is moved into the frame of the first. The area of the part of it that lies in the slab
// product |x| <= hx, |y| <= hy is, by Green's theorem, -sum over its four edges of the integral of clamp(y)
// over the clamped x interval: the shoelace sum of the clipped polygon, term by term, without building the
// polygon. There is no sort, no angle, no branch on near-parallel sides, and every term depends continuously
// on the input, so that coincident and almost coincident sides cost no accuracy.
#pragma once
#include <cmath>

#include "iou/lanes.h"

TENFOLD_BEGIN

template <class V>
struct Rect {
  V cx, cy;  // centre
  V hx, hy;  // half sizes
  V c, s;    // cosine and sine of the yaw
};

// Circumscribed radius from its square; the excess keeps rounding from separating touching circles.
TENFOLD_HD static inline double radius_above(double squared) { return sqrt(squared) * (1.0 + 1e-12) + 1e-300; }

constexpr double kYawLimit = 1e6;  // beyond it the three-part reduction below is no longer exact

// Cosine and sine of |yaw| <= kYawLimit. One routine for every box on every device: were the two boxes' values
// to come from different ones, identical boxes would not have IoU 1.
template <class V>
TENFOLD_HD inline void cosine_sine_reduced(V yaw, V& cosine, V& sine) {
  const double nearest = 6755399441055744.0;  // adding 1.5 * 2^52 rounds to an integer
  const V k = (yaw * 0.63661977236758138 + nearest) - nearest;
  // pi/2 in parts of 33, 33 and 53 bits: the first two products are exact.
  const V x = ((yaw - k * 1.5707963267341256) - k * 6.077100506303966e-11) - k * 2.0222662487959506e-21;
  const V z = x * x;
  V sp = splat<V>(1.0 / 355687428096000.0);  // Taylor to x^17 and x^16: below 1e-18 on |x| <= pi/4
  sp = sp * z - 1.0 / 1307674368000.0;
  sp = sp * z + 1.0 / 6227020800.0;
  sp = sp * z - 1.0 / 39916800.0;
  sp = sp * z + 1.0 / 362880.0;
  sp = sp * z - 1.0 / 5040.0;
  sp = sp * z + 1.0 / 120.0;
  sp = sp * z - 1.0 / 6.0;
  const V sx = x + x * (z * sp);
  V cp = splat<V>(1.0 / 20922789888000.0);
  cp = cp * z - 1.0 / 87178291200.0;
  cp = cp * z + 1.0 / 479001600.0;
  cp = cp * z - 1.0 / 3628800.0;
  cp = cp * z + 1.0 / 40320.0;
  cp = cp * z - 1.0 / 720.0;
  cp = cp * z + 1.0 / 24.0;
  const V half = z * 0.5;
  const V w = 1.0 - half;
  const V cx = w + (((1.0 - w) - half) + z * (z * cp));
  const V q = k - ((k * 0.25 + nearest) - nearest) * 4.0;  // quadrant: -2 .. 2
  const V q2 = q * q;
  const mask_of<V> odd = equal(q2, splat<V>(1.0));
  const V minus_sx = V{} - sx;
  const V minus_cx = V{} - cx;
  const V even_c = select(equal(q2, V{}), cx, minus_cx);
  const V even_s = select(equal(q2, V{}), sx, minus_sx);
  const mask_of<V> quarter = less(V{}, q);
  cosine = select(odd, select(quarter, minus_sx, sx), even_c);
  sine = select(odd, select(quarter, cx, minus_cx), even_s);
}

TENFOLD_HD static inline void cosine_sine(double yaw, double& cosine, double& sine) {
  if (yaw <= kYawLimit && yaw >= -kYawLimit) {
    cosine_sine_reduced(yaw, cosine, sine);
  } else {
    cosine = cos(yaw);
    sine = sin(yaw);
  }
}

template <class V>
TENFOLD_HD inline V clamped(V x, V h) {
  return min_of(max_of(x, V{} - h), h);
}

template <class V>
TENFOLD_HD inline V magnitude(V x) {
  return max_of(x, V{} - x);
}

// Whether a stays first. Any total order of the boxes will do: it makes f(a, b) and f(b, a) one computation.
template <class V>
TENFOLD_HD inline mask_of<V> in_order(const Rect<V>& a, const Rect<V>& b, V dx, V dy, mask_of<V>& same) {
  const mask_of<V> level = equal(dx, V{});
  mask_of<V> first = either(less(V{}, dx), both(level, less(V{}, dy)));
  const mask_of<V> concentric = both(level, equal(dy, V{}));
  same = concentric;
  if (!any(concentric)) return first;
  const V* const left[4] = {&a.hx, &a.hy, &a.c, &a.s};
  const V* const right[4] = {&b.hx, &b.hy, &b.c, &b.s};
  for (int i = 0; i < 4; ++i) {
    first = either(first, both(same, less(*left[i], *right[i])));
    same = both(same, equal(*left[i], *right[i]));
  }
  return first;
}

// One edge's integral of clamp(y) dx. (x0, y0), (x1, y1) are its ends and xc0, xc1 the clamped abscissae; slope
// is dy/dx and inverse dx/dy, each 0 where it does not exist (the factor it meets is 0 there).
template <class V>
TENFOLD_HD inline V edge_integral(V x0, V y0, V x1, V y1, V xc0, V xc1, V slope, V inverse, V hy) {
  const V ya = y0 + slope * (xc0 - x0);
  const V yb = y1 + slope * (xc1 - x1);
  const V ca = clamped(ya, hy);
  const V cb = clamped(yb, hy);
  return (xc1 - xc0) * cb + (((ca + cb) * 0.5 - ya) * inverse) * (ca - cb);
}

// Area of a ∩ b for the lanes of `live`, 0 in the others. Symmetric to the last bit; identical rectangles give
// their area exactly. `needed` is a lower bound of interest: lanes whose area cannot exceed it are given up
// early and return 0. Sizes must be positive in live lanes, everything finite.
template <class V>
TENFOLD_HD inline V intersection_area(const Rect<V>& a, const Rect<V>& b, V needed, mask_of<V> live) {
  const V dx = b.cx - a.cx;
  const V dy = b.cy - a.cy;
  mask_of<V> same;
  const mask_of<V> keep = in_order(a, b, dx, dy, same);
  const V ahx = select(keep, a.hx, b.hx), ahy = select(keep, a.hy, b.hy);
  const V bhx = select(keep, b.hx, a.hx), bhy = select(keep, b.hy, a.hy);
  const V ac = select(keep, a.c, b.c), as = select(keep, a.s, b.s);
  const V bc = select(keep, b.c, a.c), bs = select(keep, b.s, a.s);
  const V ex = select(keep, dx, V{} - dx), ey = select(keep, dy, V{} - dy);

  const V ux = ac * ex + as * ey;  // centre of b in the frame of a
  const V uy = ac * ey - as * ex;
  const V cr = ac * bc + as * bs;  // rotation of b against a
  const V sr = ac * bs - as * bc;
  const V px = bhx * cr, py = bhx * sr;          // b's half axes
  const V qx = V{} - bhy * sr, qy = bhy * cr;
  const V wx = magnitude(px) + magnitude(qx);    // half sizes of b's hull along a's axes
  const V wy = magnitude(py) + magnitude(qy);
  const V ox = min_of(ahx, ux + wx) - max_of(V{} - ahx, ux - wx);
  const V oy = min_of(ahy, uy + wy) - max_of(V{} - ahy, uy - wy);
  const V bound = ox * oy;
  live = both(live, both(both(less(V{}, ox), less(V{}, oy)), less_equal(needed, bound)));
  if (!any(live)) return V{};

  const V x0 = ux + (px + qx), y0 = uy + (py + qy);  // corners, counter-clockwise
  const V x1 = ux - (px - qx), y1 = uy - (py - qy);
  const V x2 = ux - (px + qx), y2 = uy - (py + qy);
  const V x3 = ux + (px - qx), y3 = uy + (py - qy);
  const V c0 = clamped(x0, ahx), c1 = clamped(x1, ahx), c2 = clamped(x2, ahx), c3 = clamped(x3, ahx);
  const V one = splat<V>(1.0);
  const mask_of<V> no_c = equal(cr, V{}), no_s = equal(sr, V{});
  const V tangent = select(no_c, V{}, sr / select(no_c, one, cr));
  const V cotangent = select(no_s, V{}, cr / select(no_s, one, sr));
  const V minus_tangent = V{} - tangent, minus_cotangent = V{} - cotangent;
  const V sum = (edge_integral(x0, y0, x1, y1, c0, c1, tangent, cotangent, ahy) +
                 edge_integral(x2, y2, x3, y3, c2, c3, tangent, cotangent, ahy)) +
                (edge_integral(x1, y1, x2, y2, c1, c2, minus_cotangent, minus_tangent, ahy) +
                 edge_integral(x3, y3, x0, y0, c3, c0, minus_cotangent, minus_tangent, ahy));
  V area = V{} - sum;
  // An area below what rounding alone can produce is none: touching rectangles do not overlap.
  const V ra = ahx + ahy, rb = bhx + bhy;
  const V noise = (ra + rb) * min_of(ra, rb) * 0x1p-49;
  area = select(less(noise, area), area, V{});
  const V whole = min_of(ahx * ahy, bhx * bhy) * 4.0;
  area = select(same, whole, min_of(area, min_of(bound, whole)));
  return select(live, area, V{});
}

template <class V>
TENFOLD_HD inline V rect_area(const Rect<V>& r) {
  return (r.hx * r.hy) * 4.0;
}

// Intersection over union from the sizes (areas or volumes) of both boxes.
template <class V>
TENFOLD_HD inline V over_union(V inter, V size_a, V size_b) {
  return inter / ((size_a + size_b) - inter);
}

// Overlap and span of two intervals given by centres and half lengths; exact for identical intervals.
template <class V>
TENFOLD_HD inline V interval_overlap(V distance, V ha, V hb) {
  return max_of(V{}, min_of((ha + hb) - magnitude(distance), min_of(ha, hb) * 2.0));
}
template <class V>
TENFOLD_HD inline V interval_span(V distance, V ha, V hb) {
  return max_of((ha + hb) + magnitude(distance), max_of(ha, hb) * 2.0);
}

// Area of the convex hull of two rectangles (GIoU's enclosing shape), by a monotone chain over the 8 corners.
TENFOLD_HD static inline double hull_area(const Rect<double>& a, const Rect<double>& b) {
  double x[8], y[8];
  const Rect<double>* const rect[2] = {&a, &b};
  for (int i = 0; i < 8; ++i) {  // corners relative to a's centre, inserted in order of (x, y)
    const Rect<double>& r = *rect[i / 4];
    const double lx = i & 1 ? r.hx : -r.hx;
    const double ly = i & 2 ? r.hy : -r.hy;
    const double px = (r.cx - a.cx) + (r.c * lx - r.s * ly);
    const double py = (r.cy - a.cy) + (r.s * lx + r.c * ly);
    int j = i;
    for (; j > 0 && (x[j - 1] > px || (x[j - 1] == px && y[j - 1] > py)); --j) {
      x[j] = x[j - 1];
      y[j] = y[j - 1];
    }
    x[j] = px;
    y[j] = py;
  }
  double twice = 0.0;
  for (int side = 0; side < 2; ++side) {  // lower chain left to right, upper chain right to left
    int chain[8];
    int n = 0;
    for (int k = 0; k < 8; ++k) {
      const int i = side == 0 ? k : 7 - k;
      for (; n >= 2; --n) {
        const int o = chain[n - 2], p = chain[n - 1];
        if ((x[p] - x[o]) * (y[i] - y[o]) - (y[p] - y[o]) * (x[i] - x[o]) > 0.0) break;
      }
      chain[n++] = i;
    }
    for (int k = 1; k < n; ++k) twice += x[chain[k - 1]] * y[chain[k]] - x[chain[k]] * y[chain[k - 1]];
  }
  return 0.5 * twice;
}

TENFOLD_END
