// Frames of video in 8-bit HSV, and how much one differs from the frame before: `tenfold.host.hsv_change`.
#pragma once
#include <cstdint>

#include "common/isa.h"

namespace tenfold {

struct HsvChangeArgs {
  int64_t height, width, stride;  // every stride-th row and column is looked at: h x w pixels, rounded up
  const uint8_t* rgb;             // (height, width, 3)
  const uint8_t* before;          // (h, w, 3), or nullptr
  uint8_t* hsv;                   // (h, w, 3) out
  int64_t total;                  // out: sum of the absolute differences to before
};

}  // namespace tenfold

// The namespace of a level must be inline where it is first named.
TENFOLD_BEGIN
TENFOLD_END

TENFOLD_KERNEL(hsv_change, HsvChangeArgs)
