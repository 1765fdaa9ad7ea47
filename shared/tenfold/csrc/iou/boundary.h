// Gradients of overlaps of rotated rectangles by boundary lengths, in float64, shared by CPU and CUDA.
//
// Moving a side of one rectangle outwards changes the intersection at the rate of the length of that side's part
// inside the other rectangle. Nothing is sorted and nothing can become 0 / 0. Where both rectangles have a side
// on the same line the rate has two one-sided values, 0 and the length: their mean is used.
#pragma once
#include <cmath>

#include "iou/rotated.h"

TENFOLD_BEGIN

// A box with the order of its columns: x, y, z, dx, dy, dz, yaw. Flat boxes have the height 1.
struct Solid {
  double v[7];
  double c, s;
};
enum SolidColumn { kX, kY, kZ, kDx, kDy, kDz, kYaw };

constexpr double kSameLine = 1e-12;  // relative

TENFOLD_HD static inline Rect<double> rect_of(const Solid& b) {
  return {b.v[kX], b.v[kY], 0.5 * b.v[kDx], 0.5 * b.v[kDy], b.c, b.s};
}

// Corner i of a box relative to its centre: counter-clockwise from (+, +), in the box's frame.
TENFOLD_HD static inline void corner_of(const Solid& b, int i, double& lx, double& ly) {
  lx = (i == 0 || i == 3 ? 0.5 : -0.5) * b.v[kDx];
  ly = (i < 2 ? 0.5 : -0.5) * b.v[kDy];
}

// Adds to g the gradient of a function of world positions whose derivative at corner i is (gx, gy).
TENFOLD_HD static inline void push_corner(const Solid& b, int i, double gx, double gy, double* g) {
  double lx, ly;
  corner_of(b, i, lx, ly);
  const double along = b.c * gx + b.s * gy, across = b.c * gy - b.s * gx;
  g[kX] += gx;
  g[kY] += gy;
  g[kDx] += (lx < 0 ? -0.5 : 0.5) * along;
  g[kDy] += (ly < 0 ? -0.5 : 0.5) * across;
  g[kYaw] += across * lx - along * ly;
}

// Adds to g the gradient of the area common to own and other with respect to own.
TENFOLD_HD static inline void area_gradient(const Solid& own, const Solid& other, double* g) {
  const double limit[2] = {0.5 * other.v[kDx], 0.5 * other.v[kDy]};
  const double ex = other.v[kX] - own.v[kX], ey = other.v[kY] - own.v[kY];
  const double tiny = kSameLine * (0.5 * (own.v[kDx] + own.v[kDy]) + limit[0] + limit[1] + fabs(ex) + fabs(ey));
  const double cr = own.c * other.c + own.s * other.s, sr = own.s * other.c - own.c * other.s;  // own against other
  const double ux = other.c * ex + other.s * ey, uy = other.c * ey - other.s * ex;  // from own to other, other's frame
  const int normal_x[4] = {0, -1, 0, 1}, normal_y[4] = {1, 0, -1, 0};
  for (int side = 0; side < 4; ++side) {
    double x0, y0, x1, y1;
    corner_of(own, side, x0, y0);
    corner_of(own, (side + 1) % 4, x1, y1);
    const double nx = normal_x[side], ny = normal_y[side];
    const double begin[2] = {cr * x0 - sr * y0 - ux, sr * x0 + cr * y0 - uy};
    const double end[2] = {cr * x1 - sr * y1 - ux, sr * x1 + cr * y1 - uy};
    const double normal[2] = {cr * nx - sr * ny, sr * nx + cr * ny};
    double low = 0, high = 1, weight = 1;
    for (int axis = 0; axis < 2; ++axis) {
      const double h = limit[axis], step = end[axis] - begin[axis];
      const double border = normal[axis] > 0 ? h : -h;
      if (fabs(begin[axis] - border) <= tiny && fabs(end[axis] - border) <= tiny) {
        weight = 0.5;
      } else if (fabs(step) <= tiny * 1e-3) {
        if (fabs(begin[axis]) > h) low = 2;
      } else {
        double t0 = (-h - begin[axis]) / step, t1 = (h - begin[axis]) / step;
        if (t0 > t1) {
          const double swap = t0;
          t0 = t1;
          t1 = swap;
        }
        low = t0 > low ? t0 : low;
        high = t1 < high ? t1 : high;
      }
    }
    if (!(high > low)) continue;
    const double length = (high - low) * (fabs(x1 - x0) + fabs(y1 - y0)) * weight;
    const double middle = 0.5 * (low + high);
    const double mx = x0 + middle * (x1 - x0), my = y0 + middle * (y1 - y0);
    g[kX] += length * (own.c * nx - own.s * ny);
    g[kY] += length * (own.s * nx + own.c * ny);
    g[side % 2 == 1 ? kDx : kDy] += 0.5 * length;
    g[kYaw] += length * (mx * ny - my * nx);
  }
}

// The corners of two boxes relative to the centre of the first.
struct Corners8 {
  double x[8], y[8];
  double tiny;
};

TENFOLD_HD static inline Corners8 corners_of_both(const Solid& a, const Solid& b) {
  Corners8 p;
  const double ex = b.v[kX] - a.v[kX], ey = b.v[kY] - a.v[kY];
  for (int i = 0; i < 8; ++i) {
    const Solid& box = i < 4 ? a : b;
    double lx, ly;
    corner_of(box, i % 4, lx, ly);
    p.x[i] = (i < 4 ? 0.0 : ex) + (box.c * lx - box.s * ly);
    p.y[i] = (i < 4 ? 0.0 : ey) + (box.s * lx + box.c * ly);
  }
  p.tiny = kSameLine * (a.v[kDx] + a.v[kDy] + b.v[kDx] + b.v[kDy] + fabs(ex) + fabs(ey));
  return p;
}

// px, py receive the gradient of the hull's area with respect to each corner, shared by those that coincide.
TENFOLD_HD static inline void hull_gradient(const Corners8& p, double* px, double* py) {
  int order[8];
  const auto behind = [&](int j, int i) {  // corners above one another go by y, whatever rounding does to their x
    return p.x[j] > p.x[i] + p.tiny || (p.x[j] >= p.x[i] - p.tiny && p.y[j] > p.y[i]);
  };
  for (int i = 0; i < 8; ++i) {
    int j = i;
    for (; j > 0 && behind(order[j - 1], i); --j) order[j] = order[j - 1];
    order[j] = i;
    px[i] = py[i] = 0;
  }
  const double flat = p.tiny * (p.tiny / kSameLine);  // a corner on an edge of the hull is no vertex
  int chain[16];
  int n = 0;
  for (int way = 0; way < 2; ++way) {
    const int first = n;
    for (int k = 0; k < 8; ++k) {
      const int i = order[way == 0 ? k : 7 - k];
      for (; n - first >= 2; --n) {
        const int o = chain[n - 2], q = chain[n - 1];
        if ((p.x[q] - p.x[o]) * (p.y[i] - p.y[o]) - (p.y[q] - p.y[o]) * (p.x[i] - p.x[o]) > flat) break;
      }
      chain[n++] = i;
    }
    --n;  // the other chain begins with it
  }
  for (int k = 0; k < n; ++k) {
    const int before = chain[(k + n - 1) % n], at = chain[k], after = chain[(k + 1) % n];
    int same = 0;
    for (int j = 0; j < 8; ++j) same += fabs(p.x[j] - p.x[at]) <= p.tiny && fabs(p.y[j] - p.y[at]) <= p.tiny;
    const double gx = 0.5 * (p.y[after] - p.y[before]) / same, gy = 0.5 * (p.x[before] - p.x[after]) / same;
    for (int j = 0; j < 8; ++j) {
      if (!(fabs(p.x[j] - p.x[at]) <= p.tiny && fabs(p.y[j] - p.y[at]) <= p.tiny)) continue;
      px[j] += gx;
      py[j] += gy;
    }
  }
}

// Extent of 8 values; push receives its gradient, shared by ties.
TENFOLD_HD static inline double extent_gradient(const double* value, double tiny, double* push) {
  double low = value[0], high = value[0];
  for (int i = 1; i < 8; ++i) {
    low = value[i] < low ? value[i] : low;
    high = value[i] > high ? value[i] : high;
  }
  int lowest = 0, highest = 0;
  for (int i = 0; i < 8; ++i) {
    lowest += value[i] <= low + tiny;
    highest += value[i] >= high - tiny;
  }
  for (int i = 0; i < 8; ++i)
    push[i] = (value[i] >= high - tiny ? 1.0 / highest : 0.0) - (value[i] <= low + tiny ? 1.0 / lowest : 0.0);
  return high - low;
}

// What counts as the same height.
TENFOLD_HD static inline double same_height(const Solid& a, const Solid& b) {
  return kSameLine * (0.5 * (a.v[kDz] + b.v[kDz]) + fabs(a.v[kZ] - b.v[kZ]));
}

// 1, one half or 0: whether a's end of an interval decides.
TENFOLD_HD static inline double decides(double a, double b, double tiny) {
  return fabs(a - b) <= tiny ? 0.5 : a < b ? 1.0 : 0.0;
}

// Derivatives with respect to a's z and dz of the overlap of both z intervals, or of their span. Heights are relative
// to a, so that far boxes lose nothing.
TENFOLD_HD static inline void interval_gradient(const Solid& a, const Solid& b, bool span, double& dz, double& dh) {
  const double tiny = same_height(a, b), step = b.v[kZ] - a.v[kZ];
  double top = decides(0.5 * a.v[kDz], step + 0.5 * b.v[kDz], tiny);
  double bottom = decides(step - 0.5 * b.v[kDz], -0.5 * a.v[kDz], tiny);
  if (span) {
    top = 1 - top;
    bottom = 1 - bottom;
  }
  dz = top - bottom;
  dh = 0.5 * (top + bottom);
}

enum class Enclosure { none, hull, diagonal };

// Writes the gradients of IoU (none), GIoU (hull) or DIoU (diagonal) with respect to a and b. `flat`: the boxes have
// no z.
TENFOLD_HD static inline void overlap_gradients(const Solid& a, const Solid& b, Enclosure enclosure, bool flat,
                                                double* ga, double* gb) {
  const double area = intersection_area(rect_of(a), rect_of(b), 0.0, true);
  const double distance = a.v[kZ] - b.v[kZ], ha = 0.5 * a.v[kDz], hb = 0.5 * b.v[kDz];
  const double overlap = interval_overlap(distance, ha, hb), span = interval_span(distance, ha, hb);
  const double inter = area * overlap;
  const double whole = a.v[kDx] * a.v[kDy] * a.v[kDz] + b.v[kDx] * b.v[kDy] * b.v[kDz] - inter;
  double px[8], py[8], hull = 0, enclosing = 1, diagonal = 1, square = 0;
  if (enclosure != Enclosure::none) {
    const Corners8 p = corners_of_both(a, b);
    if (enclosure == Enclosure::hull) {
      hull_gradient(p, px, py);
      hull = hull_area(rect_of(a), rect_of(b));
      enclosing = max_of(hull * span, whole);
    } else {
      const double wx = extent_gradient(p.x, p.tiny, px), wy = extent_gradient(p.y, p.tiny, py);
      diagonal = wx * wx + wy * wy + (flat ? 0.0 : span * span);
      for (int i = 0; i < 8; ++i) {
        px[i] *= 2 * wx;
        py[i] *= 2 * wy;
      }
      for (int k = 0; k < 3; ++k) square += (a.v[k] - b.v[k]) * (a.v[k] - b.v[k]);
    }
  }
  for (int turn = 0; turn < 2; ++turn) {
    const Solid& own = turn == 0 ? a : b;
    const Solid& other = turn == 0 ? b : a;
    double* const g = turn == 0 ? ga : gb;
    double d_inter[7] = {}, d_extra[7] = {}, dz, dh;
    if (inter > 0 && overlap > same_height(a, b)) {
      area_gradient(own, other, d_inter);
      for (double& v : d_inter) v *= overlap;
      interval_gradient(own, other, false, dz, dh);
      d_inter[kZ] += area * dz;
      d_inter[kDz] += area * dh;
    }
    const double d_size[7] = {0, 0, 0, own.v[kDy] * own.v[kDz], own.v[kDx] * own.v[kDz], own.v[kDx] * own.v[kDy], 0};
    if (enclosure != Enclosure::none) {
      for (int i = 0; i < 4; ++i) push_corner(own, i, px[4 * turn + i], py[4 * turn + i], d_extra);
      interval_gradient(own, other, true, dz, dh);
      if (enclosure == Enclosure::hull) {
        for (double& v : d_extra) v *= span;
        d_extra[kZ] += hull * dz;
        d_extra[kDz] += hull * dh;
      } else if (!flat) {
        d_extra[kZ] += 2 * span * dz;
        d_extra[kDz] += 2 * span * dh;
      }
    }
    for (int k = 0; k < 7; ++k) {
      const double d_union = d_size[k] - d_inter[k];
      g[k] = d_inter[k] / whole - d_union * (inter / (whole * whole));
      if (enclosure == Enclosure::hull)
        g[k] += d_union / enclosing - d_extra[k] * (whole / (enclosing * enclosing));
      else if (enclosure == Enclosure::diagonal)
        g[k] += d_extra[k] * (square / (diagonal * diagonal)) -
                (k < 3 ? 2 * (own.v[k] - other.v[k]) / diagonal : 0.0);
    }
  }
}

// DIoU of two boxes with extent.
TENFOLD_HD static inline double distance_iou(const Solid& a, const Solid& b, bool flat) {
  const double distance = a.v[kZ] - b.v[kZ], ha = 0.5 * a.v[kDz], hb = 0.5 * b.v[kDz];
  const double inter =
      intersection_area(rect_of(a), rect_of(b), 0.0, true) * interval_overlap(distance, ha, hb);
  const double iou = over_union(inter, rect_area(rect_of(a)) * a.v[kDz], rect_area(rect_of(b)) * b.v[kDz]);
  const Corners8 p = corners_of_both(a, b);
  double push[8];
  const double wx = extent_gradient(p.x, p.tiny, push), wy = extent_gradient(p.y, p.tiny, push);
  const double span = flat ? 0.0 : interval_span(distance, ha, hb);
  double square = 0;
  for (int k = 0; k < 3; ++k) square += (a.v[k] - b.v[k]) * (a.v[k] - b.v[k]);
  return iou - square / (wx * wx + wy * wy + span * span);
}

TENFOLD_END
