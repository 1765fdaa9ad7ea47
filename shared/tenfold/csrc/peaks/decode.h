// Places of peaks as classes and pixels, on the device. CUDA library only.
#pragma once
#include "common/device_stream.h"

namespace tenfold::cuda {

// place[i] < 0 gives -1 everywhere. xs may be place. Per class: lists of k of `channels` classes in turn.
void decode_peaks(const device::Stream& stream, const int64_t* place, int64_t count, int64_t k, int64_t channels,
                  int64_t height, int64_t width, bool per_class, int64_t* classes, int64_t* ys, int64_t* xs);

}  // namespace tenfold::cuda
