// The cell of a box's grid that a point falls into: the arithmetic that every device shares.
#pragma once
#include <cmath>
#include <cstdint>

#include "common/isa.h"

TENFOLD_BEGIN

// Finds the cell of a point in a box's grid.
template <class T>
class CellFinder {
 public:
  TENFOLD_HD CellFinder(const T* roi, const int64_t* grid) : roi_(roi), grid_(grid) {
    cosine_ = static_cast<T>(cos(static_cast<double>(roi[6])));
    sine_ = static_cast<T>(sin(static_cast<double>(roi[6])));
    for (int a = 0; a < 3; ++a) step_[a] = roi[3 + a] / static_cast<T>(grid[a]);
  }

  TENFOLD_HD int64_t operator()(const T* p) const {
    const T dx = p[0] - roi_[0], dy = p[1] - roi_[1], dz = p[2] - roi_[2];
    const T local[3] = {dx * cosine_ + dy * sine_, dy * cosine_ - dx * sine_, dz};
    int64_t cell = 0;
    for (int a = 0; a < 3; ++a) {
      const T at = floor((local[a] + roi_[3 + a] / 2) / step_[a]);
      const T last = static_cast<T>(grid_[a] - 1);
      const int64_t one = !(at > 0) ? 0 : at >= last ? grid_[a] - 1 : static_cast<int64_t>(at);
      cell = cell * grid_[a] + one;
    }
    return cell;
  }

 private:
  const T* roi_;
  const int64_t* grid_;
  T cosine_, sine_;
  T step_[3];
};

TENFOLD_END
