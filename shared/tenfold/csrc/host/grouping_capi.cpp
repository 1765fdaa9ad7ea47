#include "host/grouping_capi.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/arena.h"

namespace tenfold::host {
namespace {

constexpr int64_t kLanes = 8;  // independent sums and maxima: their order is fixed and the compiler can vectorise

double logistic(double x) { return x >= 0 ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / (1.0 + std::exp(x)); }

// best[i] = max(best[i], other[i]); returns the sum of the new best.
double raise_and_sum(double* best, const double* other, int64_t n) {
  double lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t k = 0; k < kLanes; ++k) {
      best[i + k] = other[i + k] > best[i + k] ? other[i + k] : best[i + k];
      lane[k] += best[i + k];
    }
  double sum = 0;
  for (double part : lane) sum += part;
  for (; i < n; ++i) {
    best[i] = std::max(best[i], other[i]);
    sum += best[i];
  }
  return sum;
}

double largest_sum(const double* a, const double* b, int64_t n) {
  double lane[kLanes];
  std::fill(lane, lane + kLanes, -std::numeric_limits<double>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t k = 0; k < kLanes; ++k) {
      const double here = a[i + k] + b[i + k];
      lane[k] = here > lane[k] ? here : lane[k];
    }
  double most = *std::max_element(lane, lane + kLanes);
  for (; i < n; ++i) most = std::max(most, a[i] + b[i]);
  return most;
}

// from[b * n + a], b > a: logistic(similarity of a to b), what b adds for an item a before it. own[b * n + a]: the
// largest such value of b itself among a..b-1. both[b * n + a]: similarity of b with a..b-1, to and fro.
struct Tables {
  double* from;
  double* own;
  double* both;
};

Tables fill_tables(Scratch& scratch, int64_t n, const double* similarity) {
  Tables t{scratch.take<double>(n * n), scratch.take<double>(n * n), scratch.take<double>(n * n)};
  for (int64_t b = 0; b < n; ++b) {
    double most = 0;
    double sum = 0;
    for (int64_t a = b - 1; a >= 0; --a) {
      t.from[b * n + a] = logistic(similarity[a * n + b]);
      most = std::max(most, logistic(similarity[b * n + a]));
      sum += similarity[a * n + b] + similarity[b * n + a];
      t.own[b * n + a] = most;
      t.both[b * n + a] = sum;
    }
  }
  return t;
}

}  // namespace
}  // namespace tenfold::host

using tenfold::Scratch;
using namespace tenfold::host;

TENFOLD_HOST int64_t tenfold_host_grouping_gains(int64_t n, const double* similarity, double* gain) {
  return guarded([&]() -> int64_t {
    Scratch scratch;
    const Tables t = fill_tables(scratch, n, similarity);
    double* best = scratch.take<double>(n);  // of each item of the growing group, its largest value so far
    std::memset(gain, 0, static_cast<size_t>(n * n) * sizeof(double));
    for (int64_t a = 0; a < n; ++a) {
      double all = 0;
      for (int64_t b = a + 1; b < n; ++b) {
        best[b - 1] = b - 1 > a ? t.own[(b - 1) * n + a] : 0;
        const double threads = raise_and_sum(best + a, t.from + b * n + a, b - a) + t.own[b * n + a];
        all += t.both[b * n + a];
        gain[a * n + b] = all / static_cast<double>(b - a) + threads;
      }
    }
    return 0;
  });
}

TENFOLD_HOST int64_t tenfold_host_partition(int64_t n, const double* gain, int64_t k_lo, int64_t k_hi, double tie,
                                            int64_t* starts, double* value) {
  return guarded([&]() -> int64_t {
    Scratch scratch;
    double* ending = scratch.take<double>(n * n);  // ending[b * n + a] = gain of a..b
    for (int64_t a = 0; a < n; ++a)
      for (int64_t b = a; b < n; ++b) ending[b * n + a] = gain[a * n + b];
    // best[b]: the largest sum for items 0..b in k groups; start[(k - 1) * n + b]: where the last of them begins.
    double* best = scratch.take<double>(n);
    double* fewer = scratch.take<double>(n);
    double* total = scratch.take<double>(k_hi);
    int32_t* start = scratch.take<int32_t>(k_hi * n);
    for (int64_t b = 0; b < n; ++b) {
      best[b] = ending[b * n];
      start[b] = 0;
    }
    total[0] = best[n - 1];
    for (int64_t k = 2; k <= k_hi; ++k) {
      std::swap(best, fewer);
      for (int64_t b = k - 1; b < n; ++b) {
        const double* group = ending + b * n;
        best[b] = largest_sum(fewer + k - 2, group + k - 1, b - k + 2);
        int64_t a = k - 1;
        while (!(fewer[a - 1] + group[a] >= best[b] - tie)) ++a;
        start[(k - 1) * n + b] = static_cast<int32_t>(a);
      }
      total[k - 1] = best[n - 1];
    }
    const double most = *std::max_element(total + k_lo - 1, total + k_hi);
    int64_t k = k_lo;
    while (!(total[k - 1] >= most - tie)) ++k;
    *value = total[k - 1];
    int64_t last = n - 1;
    for (int64_t i = k; i-- > 0;) {
      starts[i] = start[i * n + last];
      last = starts[i] - 1;
    }
    return k;
  });
}
