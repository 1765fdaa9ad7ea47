#include <algorithm>

#include "harness.h"
#include "roi_pool/roi_pool.h"

using namespace tenfold;

NATIVE_TEST(roi_point_pool) {
  const int64_t elements = 1 + random.integer(1), per = random.size(8), n = 1 + random.size(40), k = random.size(12);
  const int64_t boxes = elements * per, rows = elements * n, channels = random.size(20), width = 3 + channels;
  const auto points = random.floats<float>(3 * rows, 4), feats = random.floats<float>(rows * channels, 4);
  std::vector<int32_t> count(boxes), point(boxes * k, -1);
  for (int64_t b = 0; b < boxes; ++b) {
    count[b] = static_cast<int32_t>(random.integer(n));
    for (int64_t j = 0; j < k && j < count[b]; ++j) point[b * k + j] = static_cast<int32_t>(j * n / (count[b] + 1));
  }
  std::vector<float> pooled(boxes * k * width), grad_feats(rows * channels);
  const auto grad = random.floats<float>(pooled.size(), 1);
  RoiPointArgs<float> a{};
  a.points = points.data();
  a.feats = feats.data();
  a.point = point.data();
  a.count = count.data();
  a.boxes = boxes;
  a.k = k;
  a.channels = channels;
  a.rows = rows;
  a.boxes_per_element = elements > 1 ? per : 0;
  a.points_per_element = elements > 1 ? n : 0;
  a.parallel = native::parallel(random);
  a.pooled = pooled.data();
  a.grad = grad.data();
  a.grad_feats = grad_feats.data();
  KERNEL(roi_point_pool_f32)(a);
  KERNEL(roi_point_pool_backward_f32)(a);
  std::vector<double> expected(rows * channels, 0.0);
  for (int64_t b = 0; b < boxes; ++b)
    for (int64_t j = 0; j < k; ++j) {
      const float* got = &pooled[(b * k + j) * width];
      const int64_t stored = std::min<int64_t>(count[b], k);
      const int64_t row = stored > 0 ? (elements > 1 ? b / per * n : 0) + point[b * k + j % stored] : -1;
      for (int64_t c = 0; c < width; ++c) {
        CHECK(got[c] == (row < 0 ? 0 : c < 3 ? points[3 * row + c] : feats[row * channels + c - 3]));
        if (row >= 0 && c >= 3) expected[row * channels + c - 3] += grad[(b * k + j) * width + c];
      }
    }
  for (size_t i = 0; i < expected.size(); ++i) CHECK(native::close(static_cast<double>(grad_feats[i]), expected[i], 1e-4));
}

NATIVE_TEST(roi_grid_pool) {
  const int64_t boxes = random.size(8), rows = random.size(60), channels = random.size(20);
  std::vector<float> rois(7 * boxes);
  for (int64_t b = 0; b < boxes; ++b)
    for (int d = 0; d < 7; ++d) rois[7 * b + d] = static_cast<float>(d < 3 || d == 6 ? random.uniform(-3, 3) : random.uniform(0.5, 6));
  const auto points = random.floats<float>(3 * rows, 4), feats = random.floats<float>(rows * channels, 4);
  // Any lists will do: the kernel puts points beyond the box into its outer cells.
  std::vector<int64_t> begin{0};
  std::vector<int32_t> point;
  for (int64_t b = 0; b < boxes; ++b) {
    const double share = random.pick({0.0, 0.2, 1.0});
    for (int64_t i = 0; i < rows; ++i)
      if (random.chance(share)) point.push_back(static_cast<int32_t>(i));
    begin.push_back(static_cast<int64_t>(point.size()));
  }
  RoiGridArgs<float> a{};
  for (int64_t& g : a.grid) g = 1 + random.integer(4);
  const int64_t cells = a.grid[0] * a.grid[1] * a.grid[2];
  std::vector<float> pooled(boxes * cells * channels), grad_feats(rows * channels);
  std::vector<int32_t> arg(pooled.size());
  const auto grad = random.floats<float>(pooled.size(), 1);
  a.rois = rois.data();
  a.points = points.data();
  a.feats = feats.data();
  a.begin = begin.data();
  a.point = point.data();
  a.boxes = boxes;
  a.channels = channels;
  a.rows = rows;
  a.max_points = random.pick<int64_t>({1, 3, 127});
  a.maximum = random.chance(0.5);
  a.parallel = native::parallel(random);
  a.pooled = pooled.data();
  a.arg = a.maximum ? arg.data() : nullptr;
  a.grad = grad.data();
  a.arg_in = arg.data();
  a.grad_feats = grad_feats.data();
  KERNEL(roi_grid_pool_f32)(a);
  KERNEL(roi_grid_pool_backward_f32)(a);
  std::vector<double> expected(rows * channels, 0.0);
  for (int64_t b = 0; b < boxes; ++b) {
    const float* roi = &rois[7 * b];
    const float c = static_cast<float>(std::cos(double{roi[6]})), s = static_cast<float>(std::sin(double{roi[6]}));
    std::vector<std::vector<int32_t>> in(cells);
    for (int64_t e = begin[b]; e < begin[b + 1]; ++e) {
      const float* p = &points[3 * point[e]];
      const float u = p[0] - roi[0], v = p[1] - roi[1];
      const float local[3] = {u * c + v * s, v * c - u * s, p[2] - roi[2]};
      int64_t cell = 0;
      for (int d = 0; d < 3; ++d) {
        const float at = std::floor((local[d] + roi[3 + d] / 2) / (roi[3 + d] / static_cast<float>(a.grid[d])));
        const float last = static_cast<float>(a.grid[d] - 1);
        cell = cell * a.grid[d] + static_cast<int64_t>(std::min(std::max(at, 0.f), last));
      }
      if (static_cast<int64_t>(in[cell].size()) < a.max_points) in[cell].push_back(point[e]);
    }
    for (int64_t cell = 0; cell < cells; ++cell)
      for (int64_t i = 0; i < channels; ++i) {
        const int64_t at = (b * cells + cell) * channels + i;
        int32_t best = -1;
        double sum = 0;
        for (const int32_t row : in[cell]) {
          if (best < 0 || feats[row * channels + i] > feats[best * channels + i]) best = row;
          sum += feats[row * channels + i];
        }
        const double number = static_cast<double>(in[cell].size());
        if (a.maximum) {
          CHECK(pooled[at] == (best < 0 ? 0 : feats[best * channels + i]) && arg[at] == best);
          if (best >= 0) expected[best * channels + i] += grad[at];
        } else {
          CHECK(native::close(static_cast<double>(pooled[at]), best < 0 ? 0 : sum / number, 1e-5));
          for (const int32_t row : in[cell]) expected[row * channels + i] += grad[at] / number;
        }
      }
  }
  for (size_t i = 0; i < expected.size(); ++i) CHECK(native::close(static_cast<double>(grad_feats[i]), expected[i], 1e-4));
}
