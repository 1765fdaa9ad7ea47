#include "host/colour_capi.h"

#include <algorithm>
#include <cstdlib>

namespace tenfold::host {
namespace {

constexpr int kShift = 12;
constexpr int kHalf = 1 << (kShift - 1);
constexpr int64_t kBlock = 256;

// number / i to the nearest integer, for i of 1 to 255 and number below 2^20: adding 1.5 * 2^23 leaves no fraction.
// Dividing and rounding in float gives for each of them what double precision gives.
inline float reciprocal(float number, int i) {
  const float magic = 12582912.0f;
  return (number / static_cast<float>(i) + magic) - magic;
}

// At most kBlock pixels. Planes and no table, so that the compiler makes vector code of it; all products are below 2^24
// and hence exact in float.
void convert(int64_t n, int64_t step, const uint8_t* rgb, uint8_t* hsv) {
  int32_t red[kBlock], green[kBlock], blue[kBlock], hue[kBlock], saturation[kBlock], value[kBlock];
  for (int64_t i = 0; i < n; ++i) {
    red[i] = rgb[i * step];
    green[i] = rgb[i * step + 1];
    blue[i] = rgb[i * step + 2];
  }
  for (int64_t i = 0; i < n; ++i) {
    const int r = red[i], g = green[i], b = blue[i];
    const int most = std::max(std::max(r, g), b);
    const int spread = most - std::min(std::min(r, g), b);
    const int sector = most == r ? g - b : most == g ? b - r + 2 * spread : r - g + 4 * spread;
    // Where spread or most is 0, the other factor is 0 too.
    const float turn = static_cast<float>(sector) * reciprocal(30 << kShift, std::max(spread, 1));
    const float share = static_cast<float>(spread) * reciprocal(255 << kShift, std::max(most, 1));
    const int angle = (static_cast<int>(turn) + kHalf) >> kShift;
    hue[i] = angle + (angle < 0 ? 180 : 0);
    saturation[i] = (static_cast<int>(share) + kHalf) >> kShift;
    value[i] = most;
  }
  for (int64_t i = 0; i < n; ++i) {
    hsv[3 * i] = static_cast<uint8_t>(hue[i]);
    hsv[3 * i + 1] = static_cast<uint8_t>(saturation[i]);
    hsv[3 * i + 2] = static_cast<uint8_t>(value[i]);
  }
}

int64_t difference(int64_t n, const uint8_t* a, const uint8_t* b) {
  int64_t total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int32_t part = 0;
    const int64_t end = std::min(n, begin + kBlock);
    for (int64_t i = begin; i < end; ++i) part += std::abs(static_cast<int>(a[i]) - static_cast<int>(b[i]));
    total += part;
  }
  return total;
}

}  // namespace
}  // namespace tenfold::host

using namespace tenfold::host;

TENFOLD_HOST int64_t tenfold_host_hsv_change(int64_t height, int64_t width, int64_t stride, const uint8_t* rgb,
                                             int64_t has_before, const uint8_t* before, uint8_t* hsv) {
  return guarded([&]() -> int64_t {
    const int64_t columns = (width + stride - 1) / stride;
    int64_t total = 0, row = 0;
    for (int64_t y = 0; y < height; y += stride, ++row) {
      uint8_t* out = hsv + row * columns * 3;
      const uint8_t* in = rgb + y * width * 3;
      for (int64_t x = 0; x < columns; x += kBlock)
        convert(std::min(kBlock, columns - x), 3 * stride, in + 3 * stride * x, out + 3 * x);
      if (has_before != 0) total += difference(3 * columns, out, before + row * columns * 3);
    }
    return total;
  });
}
