#include <algorithm>
#include <numeric>

#include "harness.h"
#include "host/greedy_capi.h"
#include "host/grouping_capi.h"
#include "host/precision_capi.h"

NATIVE_TEST(host_partition) {
  const int64_t n = 1 + random.integer(8);
  std::vector<double> similarity = random.floats<double>(n * n, 1), gain(n * n);
  CHECK(tenfold_host_grouping_gains(n, similarity.data(), gain.data()) == 0);
  const int64_t k_lo = 1 + random.integer(n - 1), k_hi = k_lo + random.integer(n - k_lo);
  std::vector<int64_t> starts(k_hi);
  double value = 0;
  const int64_t k = tenfold_host_partition(n, gain.data(), k_lo, k_hi, 1e-9, starts.data(), &value);
  double best = -1e300;
  for (int64_t cuts = 0; cuts < int64_t{1} << (n - 1); ++cuts) {
    const int64_t groups = 1 + __builtin_popcountll(cuts);
    if (groups < k_lo || groups > k_hi) continue;
    double sum = 0;
    int64_t first = 0;
    for (int64_t i = 0; i < n; ++i)
      if (i == n - 1 || (cuts >> i & 1)) sum += gain[first * n + i], first = i + 1;
    best = std::max(best, sum);
  }
  CHECK(k >= k_lo && k <= k_hi && starts[0] == 0);
  CHECK(native::close(value, best, 1e-8));
}

NATIVE_TEST(host_matching) {
  const int64_t frames = random.integer(5);
  std::vector<int64_t> det{0}, gt{0};
  int64_t pairs = 0;
  for (int64_t f = 0; f < frames; ++f) {
    det.push_back(det.back() + random.integer(6));
    gt.push_back(gt.back() + random.integer(5));
    pairs += (det[f + 1] - det[f]) * (gt[f + 1] - gt[f]);
  }
  std::vector<double> overlaps(pairs);
  for (double& v : overlaps) v = static_cast<double>(random.integer(10)) / 10;
  std::vector<int64_t> order(det.back());
  std::iota(order.begin(), order.end(), int64_t{0});
  for (size_t i = 1; i < order.size(); ++i) std::swap(order[i], order[random.integer(static_cast<int64_t>(i))]);
  std::vector<uint8_t> flag(gt.back()), crowd(gt.back());
  for (size_t i = 0; i < flag.size(); ++i) crowd[i] = random.chance(0.2), flag[i] = crowd[i] || random.chance(0.2);
  const double level[2] = {0.5, 1.0};
  std::vector<int64_t> match(2 * order.size()), voc(order.size());
  std::vector<uint8_t> ignored(match.size());
  std::vector<int8_t> state(order.size());
  CHECK(tenfold_host_coco(frames, det.data(), gt.data(), overlaps.data(), order.data(), flag.data(), crowd.data(), 2,
                          level, match.data(), ignored.data()) == 0);
  CHECK(tenfold_host_voc(frames, det.data(), gt.data(), overlaps.data(), order.data(), flag.data(), 0.5, 1, voc.data(),
                         state.data()) == 0);
  std::vector<double> det_xy = random.floats<double>(2 * det.back(), 2), gt_xy = random.floats<double>(2 * gt.back(), 2);
  std::vector<int64_t> near(match.size());
  std::vector<double> away(match.size());
  CHECK(tenfold_host_nuscenes(frames, det.data(), gt.data(), det_xy.data(), gt_xy.data(), order.data(), 2, level,
                              near.data(), away.data()) == 0);
  std::vector<int> used(gt.back(), 0), close_used(gt.back(), 0);
  for (size_t d = 0; d < order.size(); ++d) {
    CHECK(state[d] == 1 ? ++used[voc[d]] == 1 : true);
    CHECK(near[d] < 0 || (++close_used[near[d]] == 1 && away[d] < 0.5));
  }
}

NATIVE_TEST(host_precision_and_pairs) {
  const int64_t n = random.size(40);
  std::vector<uint8_t> right(n);
  std::vector<double> score = random.floats<double>(n, 1);
  std::sort(score.rbegin(), score.rend());
  int64_t found = 0;
  for (uint8_t& r : right) found += r = random.chance(0.5);
  for (int64_t kind = 0; kind < 3; ++kind) {
    const double position[3] = {0, 0.5, 1};
    double value = -1;
    CHECK(tenfold_host_average_precision(n, right.data(), score.data(), found + 1, kind, 3, position, &value) == 0);
    CHECK(value >= 0 && value <= 1);
  }
  const int64_t rows = random.integer(8), columns = random.integer(8);
  const std::vector<double> matrix = random.floats<double>(rows * columns, 1);
  std::vector<int64_t> match(rows);
  CHECK(tenfold_host_greedy_assign(rows, columns, matrix.data(), 0.0, match.data()) <= std::min(rows, columns));
  std::vector<int> taken(columns, 0);
  for (int64_t m : match) CHECK(m < 0 || ++taken[m] == 1);
}
