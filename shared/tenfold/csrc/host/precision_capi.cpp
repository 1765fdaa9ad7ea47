#include "host/precision_capi.h"

#include <algorithm>

#include "common/arena.h"

namespace tenfold::host {
namespace {

double steps(int64_t n, const uint8_t* right, const double* score, double positives) {
  double area = 0;
  int64_t found = 0;
  int64_t before = 0;
  for (int64_t i = 0; i < n; ++i) {
    found += right[i];
    if (i + 1 < n && score[i + 1] == score[i]) continue;
    area += static_cast<double>(found - before) / positives * (static_cast<double>(found) / static_cast<double>(i + 1));
    before = found;
  }
  return area;
}

// recall (n,) and the envelope of the precision (n,).
void curve(int64_t n, const uint8_t* right, double positives, double* recall, double* envelope) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    found += right[i];
    recall[i] = static_cast<double>(found) / positives;
    envelope[i] = static_cast<double>(found) / static_cast<double>(i + 1);
  }
  for (int64_t i = n - 1; i-- > 0;) envelope[i] = std::max(envelope[i], envelope[i + 1]);
}

}  // namespace
}  // namespace tenfold::host

using namespace tenfold::host;

TENFOLD_HOST int64_t tenfold_host_average_precision(int64_t n, const uint8_t* right, const double* score,
                                                    int64_t positives, int64_t kind, int64_t positions,
                                                    const double* position, double* value) {
  return guarded([&]() -> int64_t {
    const auto all = static_cast<double>(positives);
    *value = 0;
    if (kind == 0) {
      *value = steps(n, right, score, all);
      return 0;
    }
    tenfold::Scratch scratch;
    double* recall = scratch.take<double>(n);
    double* envelope = scratch.take<double>(n);
    curve(n, right, all, recall, envelope);
    if (kind == 1) {
      for (int64_t i = 0; i < n; ++i) *value += (recall[i] - (i == 0 ? 0.0 : recall[i - 1])) * envelope[i];
      return 0;
    }
    for (int64_t p = 0; p < positions; ++p) {
      const int64_t i = std::lower_bound(recall, recall + n, position[p]) - recall;
      *value += i < n ? envelope[i] : 0.0;
    }
    *value /= static_cast<double>(positions);
    return 0;
  });
}
