// Boxes with larger sizes, on the device. CUDA library only.
#pragma once
#include "common/device_stream.h"

namespace tenfold::cuda {

// Adds to the three sizes of boxes (n, 7) that have an extent.
void enlarge_boxes(const device::Stream& stream, const float* boxes, int64_t n, const float* by, float* to);
void enlarge_boxes(const device::Stream& stream, const double* boxes, int64_t n, const double* by, double* to);

}  // namespace tenfold::cuda
