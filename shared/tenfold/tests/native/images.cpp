#include <algorithm>

#include "bilinear/bilinear.h"
#include "colour/colour.h"
#include "harness.h"
#include "peaks/peaks.h"
#include "ttf_targets/ttf_targets.h"

using namespace tenfold;

NATIVE_TEST(peaks) {
  const int64_t groups = random.integer(2), planes = random.integer(3), height = random.size(24), width = random.size(40);
  const int kernel = random.pick({1, 3, 5, 7});
  const int64_t area = height * width, size = planes * area;
  const auto heat = random.floats<float>(groups * size, 1, random.chance(0.3) ? 0.02 : 0.0);
  std::vector<uint8_t> at(heat.size());
  PeaksAtArgs<float> a{};
  a.heat = heat.data();
  a.planes = groups * planes;
  a.height = height;
  a.width = width;
  a.kernel = kernel;
  a.parallel = native::parallel(random);
  a.out = at.data();
  KERNEL(peaks_at_f32)(a);
  TopkPeaksArgs<float> b{};
  b.heat = heat.data();
  b.groups = groups;
  b.planes = planes;
  b.height = height;
  b.width = width;
  b.kernel = kernel;
  b.k = random.pick<int64_t>({0, 1, 7, 100});
  b.threshold = random.pick({-std::numeric_limits<double>::infinity(), 0.0, 0.5});
  b.parallel = a.parallel;
  std::vector<float> scores(groups * b.k);
  std::vector<int64_t> place(groups * b.k);
  b.scores = scores.data();
  b.place = place.data();
  KERNEL(topk_peaks_f32)(b);
  const int64_t reach = kernel / 2;
  for (int64_t i = 0; i < static_cast<int64_t>(heat.size()); ++i) {
    const int64_t y = i % area / width, x = i % width, plane = i / area * area;
    bool peak = true;
    for (int64_t v = std::max<int64_t>(0, y - reach); v <= std::min(height - 1, y + reach); ++v)
      for (int64_t u = std::max<int64_t>(0, x - reach); u <= std::min(width - 1, x + reach); ++u)
        peak = peak && heat[plane + v * width + u] <= heat[i];
    CHECK((at[i] != 0) == peak);
  }
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<int64_t> order;
    for (int64_t i = 0; i < size; ++i)
      if (at[g * size + i] != 0 && static_cast<double>(heat[g * size + i]) > b.threshold) order.push_back(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t p, int64_t q) { return heat[g * size + p] > heat[g * size + q]; });
    for (int64_t j = 0; j < b.k; ++j) {
      const bool there = j < static_cast<int64_t>(order.size());
      CHECK(place[g * b.k + j] == (there ? order[j] : -1));
      CHECK(scores[g * b.k + j] ==
            (there ? heat[g * size + order[j]] : -std::numeric_limits<float>::infinity()));
    }
  }
}

namespace {

// Value of a map that ends at its border, or goes on as its border does.
double pixel(const std::vector<double>& plane, int64_t height, int64_t width, int64_t y, int64_t x, Border border) {
  const bool inside = y >= 0 && y < height && x >= 0 && x < width;
  if (!inside && border == Border::zero) return 0;
  y = std::min(std::max<int64_t>(y, 0), height - 1);
  x = std::min(std::max<int64_t>(x, 0), width - 1);
  return plane[y * width + x];
}

}  // namespace

NATIVE_TEST(bilinear) {
  const int64_t batch = random.integer(2), n = random.size(60), channels = random.size(40);
  const int64_t height = 1 + random.size(9), width = 1 + random.size(9), area = height * width;
  const auto feat = random.floats<double>(batch * channels * area, 4);
  auto uv = random.floats<double>(2 * batch * n, 12);
  std::vector<uint8_t> valid(batch * n);
  for (uint8_t& v : valid) v = random.chance(0.8);
  const bool masked = random.chance(0.5);
  if (!uv.empty() && random.chance(0.3))
    uv[0] = random.pick({std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 1e300});
  const auto grad = random.floats<double>(batch * n * channels, 1);
  std::vector<double> out(grad.size()), grad_feat(feat.size()), grad_uv(uv.size()), last(feat.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t p = 0; p < area; ++p) last[(b * area + p) * channels + c] = feat[(b * channels + c) * area + p];
  BilinearArgs<double> a{};
  a.channels_last = random.chance(0.5);
  a.feat = a.channels_last ? last.data() : feat.data();
  a.uv = uv.data();
  a.valid = masked ? valid.data() : nullptr;
  a.batch = batch;
  a.n = n;
  a.channels = channels;
  a.height = height;
  a.width = width;
  a.border = random.pick({Border::zero, Border::clamp});
  a.parallel = native::parallel(random);
  a.out = out.data();
  a.grad = grad.data();
  a.grad_feat = grad_feat.data();
  a.grad_uv = grad_uv.data();
  KERNEL(bilinear_f64)(a);
  KERNEL(bilinear_backward_f64)(a);
  double taken = 0, given = 0;  // the gradient of the map is the transpose of the sampling: <grad, out> = <grad_feat, feat>
  for (int64_t i = 0; i < batch * n; ++i) {
    const double u = uv[2 * i], v = uv[2 * i + 1];
    const bool used = (!masked || valid[i] != 0) && std::isfinite(u) && std::isfinite(v);
    for (int64_t c = 0; c < channels; ++c) {
      double expected = 0;
      if (used) {
        const std::vector<double> plane(feat.begin() + (i / n * channels + c) * area,
                                        feat.begin() + (i / n * channels + c + 1) * area);
        const double x = std::min(std::max(u, -3.0), 30.0), y = std::min(std::max(v, -3.0), 30.0);
        const auto x0 = static_cast<int64_t>(std::floor(x)), y0 = static_cast<int64_t>(std::floor(y));
        const double fx = x - static_cast<double>(x0), fy = y - static_cast<double>(y0);
        const auto at = [&](int64_t q, int64_t p) { return pixel(plane, height, width, q, p, a.border); };
        expected = (1 - fy) * ((1 - fx) * at(y0, x0) + fx * at(y0, x0 + 1)) +
                   fy * ((1 - fx) * at(y0 + 1, x0) + fx * at(y0 + 1, x0 + 1));
      }
      CHECK(native::close(out[i * channels + c], expected, 1e-9));
      given += grad[i * channels + c] * out[i * channels + c];
    }
    if (!used) CHECK(grad_uv[2 * i] == 0 && grad_uv[2 * i + 1] == 0);
  }
  for (size_t i = 0; i < feat.size(); ++i) taken += feat[i] * grad_feat[i];
  CHECK(native::close(taken, given, 1e-9));
  // Gradients of positions against differences, where the map has no kink.
  constexpr double kStep = 1e-6;
  std::vector<double> moved(uv), ahead(out.size());
  for (size_t d = 0; d < 2; ++d) {
    for (size_t i = d; i < uv.size(); i += 2) moved[i] = uv[i] + kStep;
    a.uv = moved.data();
    a.out = ahead.data();
    KERNEL(bilinear_f64)(a);
    moved = uv;
    for (int64_t i = 0; i < batch * n; ++i) {
      const double at = uv[2 * i + static_cast<int64_t>(d)], part = at - std::floor(at);
      const double other = uv[2 * i + 1 - static_cast<int64_t>(d)];
      if (!std::isfinite(at) || !std::isfinite(other) || part < 1e-3 || part > 1 - 1e-3 || std::abs(at) > 100) continue;
      double slope = 0;
      for (int64_t c = 0; c < channels; ++c)
        slope += grad[i * channels + c] * (ahead[i * channels + c] - out[i * channels + c]) / kStep;
      CHECK(native::close(grad_uv[2 * i + static_cast<int64_t>(d)], slope, 1e-4));
    }
  }
  // The third policy takes any position as well; what it gives is compared elsewhere.
  a.border = Border::parity;
  a.uv = uv.data();
  KERNEL(bilinear_f64)(a);
  KERNEL(bilinear_backward_f64)(a);
}

NATIVE_TEST(ttf_targets) {
  const int64_t batch = random.integer(2), each = random.size(12), classes = 1 + random.integer(3);
  const int64_t height = 1 + random.size(30), width = 1 + random.size(30), area = height * width;
  std::vector<float> boxes = random.floats<float>(4 * batch * each, 60, random.chance(0.3) ? 0.03 : 0.0);
  std::vector<int64_t> labels(batch * each);
  for (int64_t i = 0; i < batch * each; ++i) {
    for (int d = 0; d < 2; ++d) boxes[4 * i + 2 + d] = boxes[4 * i + d] + std::abs(boxes[4 * i + 2 + d]);
    labels[i] = random.chance(0.05) ? random.pick({INT64_MIN, INT64_MAX, classes}) : random.integer(classes) - 1;
  }
  std::vector<float> heat(batch * classes * area), target(batch * 4 * area), weight(batch * area);
  TtfTargetsArgs a{};
  a.boxes = boxes.data();
  a.labels = labels.data();
  a.batch = batch;
  a.boxes_per_image = each;
  a.classes = classes;
  a.height = height;
  a.width = width;
  a.stride = 4;
  a.alpha = a.beta = 0.54;
  a.importance = random.pick({BoxImportance::log, BoxImportance::root, BoxImportance::area, BoxImportance::one});
  a.weight = CellWeight::one;
  a.circular = random.chance(0.5);
  a.parallel = native::parallel(random);
  a.heat = heat.data();
  a.target = target.data();
  a.weight_map = weight.data();
  for (const CellWeight kind : {CellWeight::gaussian, CellWeight::flat, CellWeight::one}) {  // the last one is looked at
    a.weight = kind;
    KERNEL(ttf_targets)(a);
  }
  for (int64_t b = 0; b < batch; ++b) {
    const auto size_of = [&](int64_t i) {
      const float* p = &boxes[4 * (b * each + i)];
      return (double{p[2]} - p[0]) * (double{p[3]} - p[1]);
    };
    std::vector<int64_t> order;
    for (int64_t i = 0; i < each; ++i) {
      const float* p = &boxes[4 * (b * each + i)];
      bool fine = labels[b * each + i] >= 0 && labels[b * each + i] < classes && p[2] > p[0] && p[3] > p[1];
      for (int d = 0; d < 4; ++d) fine = fine && std::isfinite(p[d]);
      if (fine && std::isfinite(size_of(i))) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t p, int64_t q) { return size_of(p) > size_of(q); });
    std::vector<float> expected(classes * area, 0.f);
    std::vector<int64_t> owner(area, -1);
    for (const int64_t i : order) {
      const float* p = &boxes[4 * (b * each + i)];
      const auto on_map = [](double v, int64_t size) { return std::min(std::max(v / 4, 0.0), static_cast<double>(size - 1)); };
      double w = on_map(p[2], width) - on_map(p[0], width), h = on_map(p[3], height) - on_map(p[1], height);
      if (a.circular) w = h = std::min(w, h);
      const double rx = std::floor(a.alpha * w / 2), ry = std::floor(a.alpha * h / 2);
      const double cx = std::floor((double{p[0]} + p[2]) / 2 / 4), cy = std::floor((double{p[1]} + p[3]) / 2 / 4);
      const auto gauss = [](double d, double r) {
        const double sigma = (2 * r + 1) / 6;
        return std::abs(d) <= r ? static_cast<float>(std::exp(-d * d / (2 * sigma * sigma))) : 0.f;
      };
      for (int64_t cell = 0; cell < area; ++cell) {
        const float gx = gauss(static_cast<double>(cell % width) - cx, rx), gy = gauss(static_cast<double>(cell / width) - cy, ry);
        float& top = expected[labels[b * each + i] * area + cell];
        top = std::max(top, gy * gx);
        if (gx > 0 && gy > 0) owner[cell] = i;
      }
    }
    for (int64_t i = 0; i < classes * area; ++i)
      CHECK(native::close(heat[b * classes * area + i], expected[i], 1e-5));
    for (int64_t cell = 0; cell < area; ++cell) {
      CHECK(weight[b * area + cell] == (owner[cell] < 0 ? 0.f : 1.f));
      for (int64_t d = 0; d < 4; ++d)
        CHECK(target[(b * 4 + d) * area + cell] == (owner[cell] < 0 ? 0.f : boxes[4 * (b * each + owner[cell]) + d]));
    }
  }
}

NATIVE_TEST(hsv_change) {
  const int64_t height = 1 + random.integer(9), stride = 1 + random.integer(4);
  const int64_t width = 1 + random.integer(random.chance(0.1) ? 600 : 9);
  const int64_t rows = (height + stride - 1) / stride, columns = (width + stride - 1) / stride;
  std::vector<uint8_t> rgb(3 * height * width), before(3 * rows * columns), hsv(3 * rows * columns);
  for (uint8_t& v : rgb) v = static_cast<uint8_t>(random.integer(255));
  for (uint8_t& v : before) v = static_cast<uint8_t>(random.integer(255));
  tenfold::HsvChangeArgs args{height, width, stride, rgb.data(), before.data(), hsv.data(), 0};
  KERNEL(hsv_change)(args);
  int64_t sum = 0;
  for (size_t i = 0; i < hsv.size(); ++i) sum += std::abs(int{hsv[i]} - int{before[i]});
  CHECK(args.total == sum);
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) {
      const uint8_t* in = &rgb[3 * (y * stride * width + x * stride)];
      const uint8_t* out = &hsv[3 * (y * columns + x)];
      const int most = std::max({in[0], in[1], in[2]}), least = std::min({in[0], in[1], in[2]});
      CHECK(out[2] == most && out[0] < 180);
      CHECK(native::close(static_cast<double>(out[1]), most == 0 ? 0.0 : 255.0 * (most - least) / most, 1.0));
    }
}
