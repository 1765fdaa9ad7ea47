// Rotated boxes that several drivers draw.
#pragma once
#include "harness.h"

namespace native {

template <class T>
inline bool finite(const T* v, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(v[i])) return false;
  return true;
}

// (n, 7): sizes mostly positive, every third yaw a multiple of an eighth turn.
template <class T>
std::vector<T> ground_boxes(Random& random, int64_t n, double special) {
  std::vector<T> boxes = random.floats<T>(7 * n, 4, special);
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 3; d < 6; ++d)
      if (std::isfinite(boxes[7 * i + d]) && !random.chance(0.03)) boxes[7 * i + d] = std::abs(boxes[7 * i + d]);
    if (random.chance(0.3)) boxes[7 * i + 6] = static_cast<T>(random.integer(8) - 4) * static_cast<T>(M_PI / 4);
  }
  return boxes;
}

}  // namespace native
