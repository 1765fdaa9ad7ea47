#include <algorithm>

#include "boxes.h"
#include "iou/iou.h"
#include "nms/nms.h"
#include "nms/nms_rotated.h"
#include "points_in_boxes/points_in_boxes.h"

using namespace tenfold;
using native::finite;
using native::ground_boxes;

namespace {

// Rows by descending score, the lowest first of equals; NaN and the rows that `dead` names are left out.
template <class T, class Dead>
std::vector<int32_t> ranked(const std::vector<T>& score, Dead dead) {
  std::vector<int32_t> order;
  for (int32_t i = 0; i < static_cast<int32_t>(score.size()); ++i)
    if (!(score[i] != score[i]) && !dead(i)) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score[a] > score[b]; });
  return order;
}

}  // namespace

NATIVE_TEST(nms) {
  const int64_t n = random.size(300);
  std::vector<float> boxes = random.floats<float>(4 * n, 5, random.chance(0.3) ? 0.05 : 0.0);
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < 2; ++d) boxes[4 * i + 2 + d] = boxes[4 * i + d] + std::abs(boxes[4 * i + 2 + d]);
  const std::vector<float> score = random.floats<float>(n, 1, random.chance(0.3) ? 0.05 : 0.0);
  std::vector<int64_t> label(n);
  for (int64_t& v : label) v = random.integer(2);
  const bool grouped = random.chance(0.5);
  std::vector<int32_t> keep(n);
  NmsArgs<float> a{};
  a.boxes = boxes.data();
  a.scores = score.data();
  a.labels = grouped ? label.data() : nullptr;
  a.n = n;
  a.iou_threshold = random.pick({0.0, 0.04, 0.3, 0.5, 1.0});
  a.max_out = random.pick<int64_t>({-1, -1, 0, 7});
  a.keep = keep.data();
  a.parallel = native::parallel(random);
  KERNEL(nms_f32)(a);
  std::vector<int32_t> expected;
  const auto area = [&](int32_t i) {
    return std::max(0.f, boxes[4 * i + 2] - boxes[4 * i]) * std::max(0.f, boxes[4 * i + 3] - boxes[4 * i + 1]);
  };
  for (int32_t i : ranked(score, [&](int32_t r) { return !finite(&boxes[4 * r], 4); })) {
    bool alive = a.max_out < 0 || static_cast<int64_t>(expected.size()) < a.max_out;
    for (size_t j = 0; alive && j < expected.size(); ++j) {
      const int32_t k = expected[j];
      if (grouped && label[k] != label[i]) continue;
      const float w = std::max(0.f, std::min(boxes[4 * i + 2], boxes[4 * k + 2]) - std::max(boxes[4 * i], boxes[4 * k]));
      const float h =
          std::max(0.f, std::min(boxes[4 * i + 3], boxes[4 * k + 3]) - std::max(boxes[4 * i + 1], boxes[4 * k + 1]));
      const float inter = w * h;
      alive = !(static_cast<double>(inter / (area(k) + area(i) - inter)) > a.iou_threshold);
    }
    if (alive) expected.push_back(i);
  }
  CHECK(a.kept == static_cast<int64_t>(expected.size()));
  for (int64_t i = 0; i < a.kept; ++i) CHECK(keep[i] == expected[i]);
}

// Overlap against a fine raster: not exact, but independent of any clipping.
NATIVE_TEST(box_iou) {
  const int64_t n = random.size(12), m = random.size(12);
  const auto a = ground_boxes<double>(random, n, random.chance(0.3) ? 0.05 : 0.0);
  const auto b = ground_boxes<double>(random, m, 0.0);
  std::vector<double> out(n * m), back(n * m);
  BoxIouArgs<double> args{};
  args.a = a.data();
  args.b = b.data();
  args.n = n;
  args.m = m;
  args.a_columns = args.b_columns = 7;
  args.kind = random.pick({IouKind::bev, IouKind::volume, IouKind::aligned_volume});
  args.mode = IouMode::iou;
  args.out = out.data();
  args.parallel = native::parallel(random);
  KERNEL(box_iou_f64)(args);
  std::swap(args.a, args.b);
  std::swap(args.n, args.m);
  args.out = back.data();
  KERNEL(box_iou_f64)(args);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) {
      CHECK(out[i * m + j] == back[j * n + i]);
      CHECK(out[i * m + j] >= 0 && out[i * m + j] <= 1);
      if (!finite(&a[7 * i], 7)) CHECK(out[i * m + j] == 0);
    }
  if (args.kind != IouKind::bev || n == 0 || m == 0 || !finite(a.data(), 7)) return;
  const auto holds = [](const double* box, double x, double y) {
    const double c = std::cos(box[6]), s = std::sin(box[6]), u = x - box[0], v = y - box[1];
    return std::abs(u * c + v * s) < box[3] / 2 && std::abs(v * c - u * s) < box[4] / 2;
  };
  constexpr int kSteps = 200;
  const double reach = std::hypot(a[3], a[4]) / 2;
  double both = 0;
  for (int p = 0; p < kSteps; ++p)
    for (int q = 0; q < kSteps; ++q) {
      const double x = a[0] + reach * (2 * (p + 0.5) / kSteps - 1), y = a[1] + reach * (2 * (q + 0.5) / kSteps - 1);
      both += holds(&a[0], x, y) && holds(&b[0], x, y);
    }
  both *= std::pow(2 * reach / kSteps, 2);
  const double areas = std::max(0.0, a[3]) * std::max(0.0, a[4]) + std::max(0.0, b[3]) * std::max(0.0, b[4]);
  const double border = 8 * reach * (2 * reach / kSteps) + 1e-12;  // cells that the outlines may cut
  if (areas > 4 * border) CHECK(std::abs(out[0] * (areas - both) - both) < 2 * border);
}

NATIVE_TEST(nms_rotated) {
  const int64_t n = random.size(100);
  const auto boxes = ground_boxes<float>(random, n, random.chance(0.3) ? 0.03 : 0.0);
  const auto score = random.floats<float>(n, 1, random.chance(0.3) ? 0.05 : 0.0);
  std::vector<int32_t> keep(n);
  NmsRotatedArgs<float> a{};
  a.boxes = boxes.data();
  a.columns = 7;
  a.scores = score.data();
  a.n = n;
  a.metric = random.pick({NmsMetric::bev, NmsMetric::volume});
  a.iou_threshold = random.pick({0.0, 0.1, 0.5, 1.0});
  a.pre_max = random.pick<int64_t>({-1, 20});
  a.post_max = random.pick<int64_t>({-1, 5});
  a.keep = keep.data();
  a.parallel = native::parallel(random);
  KERNEL(nms_rotated_f32)(a);
  std::vector<float> iou(n * n);
  BoxIouArgs<float> all{};
  all.a = all.b = boxes.data();
  all.n = all.m = n;
  all.a_columns = all.b_columns = 7;
  all.kind = a.metric == NmsMetric::bev ? IouKind::bev : IouKind::volume;
  all.out = iou.data();
  KERNEL(box_iou_f32)(all);
  auto order = ranked(score, [&](int32_t r) { return !finite(&boxes[7 * r], 7); });
  if (a.pre_max >= 0 && static_cast<int64_t>(order.size()) > a.pre_max) order.resize(a.pre_max);
  std::vector<int32_t> expected;
  for (int32_t i : order) {
    bool alive = a.post_max < 0 || static_cast<int64_t>(expected.size()) < a.post_max;
    for (int32_t k : expected) alive = alive && !(static_cast<double>(iou[k * n + i]) > a.iou_threshold);
    if (alive) expected.push_back(i);
  }
  CHECK(a.kept == static_cast<int64_t>(expected.size()));
  for (int64_t i = 0; i < a.kept; ++i) CHECK(keep[i] == expected[i]);
}

NATIVE_TEST(points_in_boxes) {
  const int64_t n = random.size(300), m = random.size(40);
  const auto points = random.floats<float>(3 * n, 4, random.chance(0.3) ? 0.03 : 0.0);
  const auto boxes = ground_boxes<float>(random, m, random.chance(0.3) ? 0.03 : 0.0);
  const BoxElement element{0, n, n, 0, m, m};
  std::vector<int32_t> first(n, -1);
  std::vector<uint8_t> mask(n * m, 0);
  PointsInBoxesArgs<float> a{};
  a.points = points.data();
  a.boxes = boxes.data();
  a.elements = &element;
  a.num_elements = 1;
  a.margin = 1e-5;
  a.first = first.data();
  a.mask = mask.data();
  a.mask_columns = n;
  a.parallel = native::parallel(random);
  a.output = BoxOutput::first;
  KERNEL(points_in_boxes_f32)(a);
  a.output = BoxOutput::mask;
  KERNEL(points_in_boxes_f32)(a);
  for (int64_t i = 0; i < n; ++i) {
    int32_t lowest = -1;
    for (int64_t j = 0; j < m; ++j) {
      if (mask[j * n + i] && lowest < 0) lowest = static_cast<int32_t>(j);
      const float* b = &boxes[7 * j];
      const float* p = &points[3 * i];
      if (!finite(p, 3) || !finite(b, 7) || !(b[3] > 0 && b[4] > 0 && b[5] > 0)) {
        CHECK(!mask[j * n + i]);
        continue;
      }
      const double c = std::cos(double{b[6]}), s = std::sin(double{b[6]}), u = double{p[0]} - b[0], v = double{p[1]} - b[1];
      const double slack[3] = {b[3] / 2 + 1e-5 - std::abs(u * c + v * s), b[4] / 2 + 1e-5 - std::abs(v * c - u * s),
                               b[5] / 2.0 - std::abs(double{p[2]} - b[2])};
      const double least = std::min({slack[0], slack[1], slack[2]});
      if (std::abs(slack[0]) > 1e-4 && std::abs(slack[1]) > 1e-4 && std::abs(slack[2]) > 1e-4)
        CHECK((mask[j * n + i] != 0) == (least > 0));
    }
    CHECK(first[i] == lowest);
  }
}
