// Rows that a suppression kept, on the device. CUDA library only.
#pragma once
#include "common/device_stream.h"

namespace tenfold::cuda {

// Reads their number: a synchronisation.
int64_t kept_rows(const device::Stream& stream, const int32_t* kept);

// to[i] = rows[i], or -1 from *kept on; `count` (may be null) receives the number.
void write_kept(const device::Stream& stream, const int32_t* rows, const int32_t* kept, int64_t size, int64_t* to,
                int32_t* count);

}  // namespace tenfold::cuda
