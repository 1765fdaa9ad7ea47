#include "host/colour_capi.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

namespace tenfold::host {
namespace {

constexpr int kShift = 12;
constexpr int kHalf = 1 << (kShift - 1);

// saturation[v] = 255 / v, hue[d] = 30 / d, in fixed point; 0 for 0.
struct Tables {
  std::array<int32_t, 256> saturation{}, hue{};
  Tables() {
    for (int i = 1; i < 256; ++i) {
      saturation[i] = static_cast<int32_t>(std::lrint((255 << kShift) / static_cast<double>(i)));
      hue[i] = static_cast<int32_t>(std::lrint((180 << kShift) / (6.0 * i)));
    }
  }
};

inline void convert(const Tables& tables, const uint8_t* rgb, uint8_t* hsv) {
  const int r = rgb[0], g = rgb[1], b = rgb[2];
  const int value = std::max(std::max(r, g), b);
  const int spread = value - std::min(std::min(r, g), b);
  const int sector = value == r ? g - b : value == g ? b - r + 2 * spread : r - g + 4 * spread;
  const int hue = (sector * tables.hue[spread] + kHalf) >> kShift;
  hsv[0] = static_cast<uint8_t>(hue + (hue < 0 ? 180 : 0));
  hsv[1] = static_cast<uint8_t>((spread * tables.saturation[value] + kHalf) >> kShift);
  hsv[2] = static_cast<uint8_t>(value);
}

int64_t difference(int64_t n, const uint8_t* a, const uint8_t* b) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) total += std::abs(static_cast<int>(a[i]) - static_cast<int>(b[i]));
  return total;
}

}  // namespace
}  // namespace tenfold::host

using namespace tenfold::host;

TENFOLD_HOST int64_t tenfold_host_hsv_change(int64_t height, int64_t width, int64_t stride, const uint8_t* rgb,
                                             int64_t has_before, const uint8_t* before, uint8_t* hsv) {
  return guarded([&]() -> int64_t {
    static const Tables tables;
    const int64_t columns = (width + stride - 1) / stride;
    int64_t total = 0, row = 0;
    for (int64_t y = 0; y < height; y += stride, ++row) {
      uint8_t* out = hsv + row * columns * 3;
      const uint8_t* in = rgb + y * width * 3;
      for (int64_t x = 0; x < columns; ++x) convert(tables, in + 3 * stride * x, out + 3 * x);
      if (has_before != 0) total += difference(3 * columns, out, before + row * columns * 3);
    }
    return total;
  });
}
