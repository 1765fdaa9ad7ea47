// Leaky ReLU, gain and clamp, and their derivative: the arithmetic that every device shares.
#pragma once
#include "common/isa.h"

TENFOLD_BEGIN

// V is a number, or a vector of them that compares lane by lane.
template <class V>
TENFOLD_HD V activation(V u, V slope, V gain, V clamp, bool clamped) {
  V y = (u < V{} ? u * slope : u) * gain;
  if (!clamped) return y;
  y = y > clamp ? clamp : y;
  return y < -clamp ? -clamp : y;  // a NaN stays
}

// 0 where the clamp holds (and at a NaN, then).
template <class V>
TENFOLD_HD V activation_slope(V u, V slope, V gain, V clamp, bool clamped) {
  const V factor = u < V{} ? slope * gain : gain;
  if (!clamped) return factor;
  const V y = (u < V{} ? u * slope : u) * gain;
  const V low = y < -clamp ? V{} : factor;
  const V high = y > clamp ? V{} : low;
  return y == y ? high : V{};
}

TENFOLD_END
