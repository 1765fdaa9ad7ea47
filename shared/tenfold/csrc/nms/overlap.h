// The suppression test fl(inter / (A_i + A_j - inter)) > threshold for one candidate against vectors of boxes.
//
// iou > t means inter > t/(1+t) (A_i + A_j); that product form, with its factor lowered by a guard band of many
// rounding errors, finds every true hit without a division. Only lanes that pass it are divided, so the
// decision is always the quotient's.
#pragma once
#include <cmath>
#include <limits>

#include "common/arena.h"
#include "common/vec.h"

TENFOLD_BEGIN

template <class T>
struct OverlapRule {
  T threshold;  // the largest T <= the double threshold: q > threshold gives the same answer for q of type T
  T factor;     // t / (1 + t) below its guard band; 0 (any intersection is divided) for tiny thresholds

  explicit OverlapRule(double t) {
    threshold = static_cast<T>(t);
    if (static_cast<double>(threshold) > t) threshold = std::nextafter(threshold, T(-1));
    const double guard = 1.0 - 32.0 * std::numeric_limits<T>::epsilon();
    factor = t < 1e-6 ? T(0) : static_cast<T>(t / (1.0 + t) * guard);
  }
  // Areas so small that their product with the factor could be denormal count as 0: divide any intersection.
  T scaled(T area) const {
    constexpr T tiny = sizeof(T) == 4 ? T(1e-30) : T(1e-280);
    return area < tiny ? T(0) : factor * area;
  }
};

template <class T>
struct Box {
  T x1, y1, x2, y2;
};

template <class T>
static inline T box_area(const Box<T>& b) {
  const T w = b.x2 - b.x1;
  const T h = b.y2 - b.y1;
  return (w > 0 ? w : T(0)) * (h > 0 ? h : T(0));
}

// Corners and scaled areas, one array each. A slot that holds no box has scaled area +inf and is never hit.
template <class T>
struct BoxSlots {
  T* x1;
  T* y1;
  T* x2;
  T* y2;
  T* scaled;
  uint8_t* open;  // 1: it is not yet known whether this box is kept

  BoxSlots(Scratch& scratch, int64_t capacity) {
    x1 = scratch.take<T>(capacity);
    y1 = scratch.take<T>(capacity);
    x2 = scratch.take<T>(capacity);
    y2 = scratch.take<T>(capacity);
    scaled = scratch.take<T>(capacity + kWidth<T>);
    open = scratch.take<uint8_t>(capacity);
    // A vector may start at the last box.
    for (int64_t i = 0; i < capacity + kWidth<T>; ++i) scaled[i] = std::numeric_limits<T>::infinity();
  }
  void put(int64_t at, const Box<T>& b, T scaled_area, bool is_open) {
    x1[at] = b.x1;
    y1[at] = b.y1;
    x2[at] = b.x2;
    y2[at] = b.y2;
    scaled[at] = scaled_area;
    open[at] = is_open;
  }
  bool any_kept(int64_t at, lane_mask lane) const {
    for (; lane != 0; lane &= lane - 1)
      if (!open[at + __builtin_ctz(lane)]) return true;
    return false;
  }
};

template <class T>
class Overlap {
  using V = vec<T>;
  static constexpr int kStep = kWidth<T>;

 public:
  Overlap(const OverlapRule<T>& rule, const Box<T>& b, T area)
      : x1_(vset(b.x1)), y1_(vset(b.y1)), x2_(vset(b.x2)), y2_(vset(b.y2)),
        scaled_(vset(rule.scaled(area))), area_(area), threshold_(rule.threshold) {}

  // Calls hit(at, lanes) where boxes in [begin, end) suppress the candidate, until it returns true; whether it
  // did. Boxes up to one vector behind `end` may be tested too: every box in the slots outranks the candidate.
  template <class F>
  bool visit(const BoxSlots<T>& s, int64_t begin, int64_t end, F&& hit) const {
    for (; begin + 4 * kStep <= end; begin += 4 * kStep) {
      const lane_mask m0 = maybe(s, begin);
      const lane_mask m1 = maybe(s, begin + kStep);
      const lane_mask m2 = maybe(s, begin + 2 * kStep);
      const lane_mask m3 = maybe(s, begin + 3 * kStep);
      if (__builtin_expect((m0 | m1 | m2 | m3) == 0, 1)) continue;
      if (settle(s, begin, m0, hit) || settle(s, begin + kStep, m1, hit) || settle(s, begin + 2 * kStep, m2, hit) ||
          settle(s, begin + 3 * kStep, m3, hit))
        return true;
    }
    for (; begin < end; begin += kStep)
      if (settle(s, begin, maybe(s, begin), hit)) return true;
    return false;
  }

 private:
  V intersection(const BoxSlots<T>& s, int64_t at) const {
    const V iw = vmin(vload(s.x2 + at), x2_) - vmax(vload(s.x1 + at), x1_);
    const V ih = vmin(vload(s.y2 + at), y2_) - vmax(vload(s.y1 + at), y1_);
    return vmax(iw, V{}) * ih;  // never positive where ih < 0
  }
  lane_mask maybe(const BoxSlots<T>& s, int64_t at) const {
    return vlt(vload(s.scaled + at) + scaled_, intersection(s, at));
  }
  template <class F>
  bool settle(const BoxSlots<T>& s, int64_t at, lane_mask lane, F&& hit) const {
    if (__builtin_expect(lane == 0, 1)) return false;
    lane &= certain(s, at);
    return lane != 0 && hit(at, lane);
  }
  lane_mask certain(const BoxSlots<T>& s, int64_t at) const {
    const V area = (vload(s.x2 + at) - vload(s.x1 + at)) * (vload(s.y2 + at) - vload(s.y1 + at));
    const V inter = intersection(s, at);
    return vlt(vset(threshold_), inter / ((area + area_) - inter));
  }

  V x1_, y1_, x2_, y2_, scaled_;
  T area_, threshold_;
};

TENFOLD_END
