#include "colour/colour.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int kShift = 12;
constexpr int kHalf = 1 << (kShift - 1);
constexpr int64_t kBlock = 256;

inline vint larger(vint a, vint b) { return a > b ? a : b; }
inline vint smaller(vint a, vint b) { return a < b ? a : b; }

// factor * (number / i to the nearest integer), to the nearest integer after kShift binary digits are cut off; i of 1 to
// 255 and number below 2^20: adding 1.5 * 2^23 leaves no fraction. Dividing and rounding in float gives for each of
// them what double precision gives, and the product is below 2^24 and hence exact in float.
inline vint scaled(vint factor, float number, vint i) {
  const float magic = 12582912.0f;
  const vfloat reciprocal = (number / __builtin_convertvector(i, vfloat) + magic) - magic;
  return (__builtin_convertvector(__builtin_convertvector(factor, vfloat) * reciprocal, vint) + kHalf) >> kShift;
}

// Pixels in the low three bytes of each lane: red, green, blue to hue, saturation, value.
inline vint convert(vint rgb) {
  const vint r = rgb & 255, g = rgb >> 8 & 255, b = rgb >> 16 & 255, one = vset(1);
  const vint most = larger(larger(r, g), b), spread = most - smaller(smaller(r, g), b);
  const vint sector = most == r ? g - b : most == g ? b - r + 2 * spread : r - g + 4 * spread;
  // Where spread or most is 0, the factor is 0 too.
  const vint angle = scaled(sector, 30 << kShift, larger(spread, one));
  const vint hue = angle < 0 ? angle + 180 : angle;
  return hue | scaled(spread, 255 << kShift, larger(most, one)) << 8 | most << 16;
}

// n pixels, `step` bytes apart. Four bytes are moved where three are meant, but not of the last pixel.
void convert_line(int64_t n, int64_t step, const uint8_t* rgb, uint8_t* hsv) {
  int32_t word[kBlock];  // lanes behind the last pixel are computed, from whatever lies there, and left
  for (int64_t begin = 0; begin < n; begin += kBlock, rgb += kBlock * step, hsv += kBlock * 3) {
    const int64_t last = std::min(kBlock, n - begin) - 1;
    for (int64_t i = 0; i < last; ++i) std::memcpy(word + i, rgb + i * step, 4);
    std::memcpy(word + last, rgb + last * step, 3);
    for (int64_t i = 0; i <= last; i += kLanes) vstore(word + i, convert(vload(word + i)));
    for (int64_t i = 0; i < last; ++i) std::memcpy(hsv + 3 * i, word + i, 4);
    std::memcpy(hsv + 3 * last, word + last, 3);
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

void hsv_change(HsvChangeArgs& a) {
  const int64_t columns = (a.width + a.stride - 1) / a.stride;
  int64_t row = 0;
  a.total = 0;
  for (int64_t y = 0; y < a.height; y += a.stride, ++row) {
    uint8_t* out = a.hsv + row * columns * 3;
    convert_line(columns, 3 * a.stride, a.rgb + y * a.width * 3, out);
    if (a.before != nullptr) a.total += difference(3 * columns, out, a.before + row * columns * 3);
  }
}

TENFOLD_END
