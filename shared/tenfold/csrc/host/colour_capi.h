// Frames of video in 8-bit HSV, and how much one differs from the frame before.
#pragma once
#include "host/host.h"

// rgb (height, width, 3); of it every stride-th row and column is looked at, h x w pixels rounded up. hsv (h, w, 3):
// hue 0..179, saturation and value 0..255, in fixed point with 12 binary digits as OpenCV rounds. Returns the sum of
// the absolute differences to before (h, w, 3), or 0 where has_before is 0 (before is then not read).
TENFOLD_HOST int64_t tenfold_host_hsv_change(int64_t height, int64_t width, int64_t stride, const uint8_t* rgb,
                                             int64_t has_before, const uint8_t* before, uint8_t* hsv);
