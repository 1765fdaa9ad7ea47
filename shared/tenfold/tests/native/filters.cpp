#include <algorithm>

#include "fir/fir.h"
#include "harness.h"

using namespace tenfold;
using native::Random;

namespace {

struct Filter {
  std::vector<double> taps;
  FirFilter<double> filter;
  double at(int64_t y, int64_t x) const {  // of the correlation
    if (filter.separable) return taps[place(y, filter.height)] * taps[place(x, filter.height)];
    return taps[place(y, filter.height) * filter.width + place(x, filter.width)];
  }
  int64_t place(int64_t k, int64_t n) const { return filter.flip ? k : n - 1 - k; }
  int64_t columns() const { return filter.separable ? filter.height : filter.width; }
};

Filter draw_filter(Random& random) {
  Filter f{};
  f.filter.separable = random.chance(0.5);
  f.filter.height = 1 + random.integer(f.filter.separable ? 12 : 4);
  f.filter.width = f.filter.separable ? f.filter.height : 1 + random.integer(4);
  f.filter.flip = random.chance(0.5);
  f.taps = random.floats<double>(f.filter.separable ? f.filter.height : f.filter.height * f.filter.width, 1);
  f.filter.taps = f.taps.data();
  return f;
}

struct Map {
  int64_t height, width;
  std::vector<double> values;
};

// Zeros, padding, filter, every down-th number: the definition, one plane.
Map filtered(const double* plane, int64_t height, int64_t width, double shift, FirAxis y_axis, FirAxis x_axis,
             const Filter& f, double gain, int64_t out_height, int64_t out_width) {
  Map map{out_height, out_width, std::vector<double>(static_cast<size_t>(out_height * out_width))};
  for (int64_t j = 0; j < out_height; ++j)
    for (int64_t i = 0; i < out_width; ++i) {
      double sum = 0;
      for (int64_t ky = 0; ky < f.filter.height; ++ky)
        for (int64_t kx = 0; kx < f.columns(); ++kx) {
          const int64_t y = y_axis.down * j + ky - y_axis.pad, x = x_axis.down * i + kx - x_axis.pad;
          if (y < 0 || x < 0 || y % y_axis.up != 0 || x % x_axis.up != 0) continue;
          if (y / y_axis.up >= height || x / x_axis.up >= width) continue;
          sum += f.at(ky, kx) * (plane[y / y_axis.up * width + x / x_axis.up] + shift);
        }
      map.values[j * out_width + i] = gain * sum;
    }
  return map;
}

int64_t size_of(int64_t in, int64_t up, int64_t down, int64_t low, int64_t high, int64_t taps) {
  const int64_t span = in * up + low + high - taps;
  return span < 0 ? 0 : span / down + 1;
}

}  // namespace

NATIVE_TEST(upfirdn2d) {
  const Filter f = draw_filter(random);
  UpfirdnArgs<double> a{};
  a.planes = random.size(80);
  a.in_height = 1 + random.size(20);
  a.in_width = 1 + random.size(60);
  a.y_axis = {1 + random.integer(3), 1 + random.integer(3), random.integer(12) - 3};
  a.x_axis = {1 + random.integer(3), 1 + random.integer(3), random.integer(12) - 3};
  a.out_height = size_of(a.in_height, a.y_axis.up, a.y_axis.down, a.y_axis.pad, random.integer(12) - 3, f.filter.height);
  a.out_width = size_of(a.in_width, a.x_axis.up, a.x_axis.down, a.x_axis.pad, random.integer(12) - 3, f.columns());
  const auto x = random.floats<double>(a.planes * a.in_height * a.in_width, 4);
  std::vector<double> out(static_cast<size_t>(a.planes * a.out_height * a.out_width));
  if (out.empty()) return;
  a.x = x.data();
  a.filter = f.filter;
  a.gain = random.uniform(0.5, 4);
  a.parallel = native::parallel(random);
  a.out = out.data();
  KERNEL(upfirdn2d_f64)(a);
  for (int64_t p = 0; p < a.planes; p += 1 + a.planes / 4) {
    const Map expected = filtered(x.data() + p * a.in_height * a.in_width, a.in_height, a.in_width, 0, a.y_axis, a.x_axis,
                                  f, a.gain, a.out_height, a.out_width);
    for (size_t i = 0; i < expected.values.size(); ++i)
      CHECK(native::close(out[static_cast<size_t>(p) * expected.values.size() + i], expected.values[i], 1e-9));
  }
}

NATIVE_TEST(filtered_lrelu) {
  const Filter up = draw_filter(random), other = draw_filter(random), down = draw_filter(random);
  FilteredLreluArgs<double> a{};
  a.channels = 1 + random.integer(3);
  a.planes = a.channels * random.integer(20);
  const int64_t factor = 1 + random.integer(3), low = random.integer(12) - 3, top = random.integer(12) - 3;
  a.x = {nullptr, 1 + random.size(12), 1 + random.size(40), factor, low, top, up.filter, 1.5};
  a.mid_height = size_of(a.x.height, factor, 1, top, random.integer(12) - 3, up.filter.height);
  a.mid_width = size_of(a.x.width, factor, 1, low, random.integer(12) - 3, up.columns());
  a.down = 1 + random.integer(3);
  a.down_left = random.integer(4) - 2;
  a.down_top = random.integer(4) - 2;
  a.out_height = size_of(a.mid_height, 1, a.down, a.down_top, random.integer(3), down.filter.height);
  a.out_width = size_of(a.mid_width, 1, a.down, a.down_left, random.integer(3), down.columns());
  if (a.planes * a.mid_height * a.mid_width * a.out_height * a.out_width == 0) return;
  const auto x = random.floats<double>(a.planes * a.x.height * a.x.width, 2);
  const auto bias = random.floats<double>(a.channels, 1);
  a.x.data = x.data();
  a.bias = random.chance(0.7) ? bias.data() : nullptr;
  // The derivative multiplies a second map that meets the first one at the activation.
  const bool derivative = random.chance(0.5);
  const int64_t v_up = 1 + random.integer(3);
  a.v = {nullptr, 1 + random.size(12), 1 + random.size(40), v_up, random.integer(12) - 3, random.integer(12) - 3, other.filter, 0.7};
  const auto v = random.floats<double>(a.planes * a.v.height * a.v.width, 2);
  if (derivative) a.v.data = v.data();
  a.down_filter = down.filter;
  a.slope = 0.2;
  a.gain = 1.4;
  a.clamp = random.pick({-1.0, 2.0});
  a.parallel = native::parallel(random);
  std::vector<double> out(static_cast<size_t>(a.planes * a.out_height * a.out_width));
  a.out = out.data();
  KERNEL(filtered_lrelu_f64)(a);
  for (int64_t p = 0; p < a.planes; p += 1 + a.planes / 3) {
    const double shift = a.bias == nullptr ? 0 : bias[static_cast<size_t>(p % a.channels)];
    Map mid = filtered(x.data() + p * a.x.height * a.x.width, a.x.height, a.x.width, shift, {factor, 1, top},
                       {factor, 1, low}, up, 1.5, a.mid_height, a.mid_width);
    bool near_a_kink = false;
    Map raised = filtered(v.data() + p * a.v.height * a.v.width, a.v.height, a.v.width, 0, {v_up, 1, a.v.pad_top},
                          {v_up, 1, a.v.pad_left}, other, 0.7, a.mid_height, a.mid_width);
    for (size_t i = 0; i < mid.values.size(); ++i) {
      const double u = mid.values[i], y = (u < 0 ? 0.2 * u : u) * 1.4;
      const bool held = a.clamp >= 0 && std::abs(y) > a.clamp;
      near_a_kink = near_a_kink || (u != 0 && std::abs(u) < 1e-9) || std::abs(std::abs(y) - 2) < 1e-9;
      mid.values[i] = derivative ? (held ? 0 : (u < 0 ? 0.2 : 1) * 1.4 * raised.values[i])
                                 : (held ? (y < 0 ? -a.clamp : a.clamp) : y);
    }
    if (derivative && near_a_kink) continue;
    const Map expected = filtered(mid.values.data(), a.mid_height, a.mid_width, 0, {1, a.down, a.down_top},
                                  {1, a.down, a.down_left}, down, 1, a.out_height, a.out_width);
    for (size_t i = 0; i < expected.values.size(); ++i)
      CHECK(native::close(out[static_cast<size_t>(p) * expected.values.size() + i], expected.values[i], 1e-9));
  }
}

NATIVE_TEST(bias_act) {
  BiasActArgs<float> a{};
  a.batch = random.integer(3);
  a.channels = random.size(12);
  a.inner = random.size(90000);
  const int64_t size = a.batch * a.channels * a.inner;
  if (size > (1 << 20)) return;
  const auto x = random.floats<float>(size, 3, 0.01), v = random.floats<float>(size, 3);
  const auto bias = random.floats<float>(a.channels, 1);
  a.noise_batch = random.chance(0.5) ? 1 : a.batch;
  const auto noise = random.floats<float>(a.noise_batch * a.inner, 1);
  std::vector<float> out(x.size());
  a.x = x.data();
  a.v = random.chance(0.5) ? v.data() : nullptr;
  a.bias = random.chance(0.5) ? bias.data() : nullptr;
  a.noise = random.chance(0.5) ? noise.data() : nullptr;
  a.slope = 0.25f;
  a.gain = 2;
  a.clamp = random.pick({-1.0f, 1.5f});
  a.parallel = native::parallel(random);
  a.out = out.data();
  KERNEL(bias_act_f32)(a);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t row = i / a.inner, image = a.noise_batch == 1 ? 0 : row / a.channels;
    float u = x[i] + (a.bias == nullptr ? 0 : bias[row % a.channels]);
    if (a.noise != nullptr) u += noise[image * a.inner + i % a.inner];
    const float y = (u < 0 ? u * 0.25f : u) * 2;
    const bool held = a.clamp >= 0 && !(y <= a.clamp && y >= -a.clamp);
    const float expected = a.v != nullptr ? (held ? 0 : v[i] * (u < 0 ? 0.5f : 2.0f))
                           : held && y == y ? (y < 0 ? -a.clamp : a.clamp)
                                            : y;
    CHECK((std::isnan(out[i]) && std::isnan(expected)) || out[i] == expected);
  }
}
