#include "host/colour_capi.h"

#include "colour/colour.h"

TENFOLD_HOST int64_t tenfold_host_hsv_change(int64_t height, int64_t width, int64_t stride, const uint8_t* rgb,
                                             int64_t has_before, const uint8_t* before, uint8_t* hsv) {
  return tenfold::host::guarded([&]() -> int64_t {
    tenfold::HsvChangeArgs args{height, width, stride, rgb, has_before != 0 ? before : nullptr, hsv, 0};
    tenfold::dispatch::hsv_change(args);
    return args.total;
  });
}
