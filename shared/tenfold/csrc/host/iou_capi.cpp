#include "host/iou_capi.h"

#include <algorithm>
#include <cmath>

#include "iou/iou.h"

namespace tenfold::host {
namespace {

int64_t first_not_finite(const double* boxes, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    double sum = 0.0;  // 0 * x is 0 for finite x, else NaN
    for (int64_t k = 0; k < columns; ++k) sum += 0.0 * boxes[i * columns + k];
    if (!(sum == 0.0)) return i;
  }
  return -1;
}

double image_overlap(const double* a, const double* b, IouMode mode) {
  const double w = std::min(a[2], b[2]) - std::max(a[0], b[0]);
  const double h = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  if (!(w > 0.0 && h > 0.0)) return 0.0;
  const double inter = w * h;
  if (!(inter > 0.0 && inter < HUGE_VAL)) return 0.0;  // leaves the range of double: as a box without extent
  if (mode == IouMode::inter) return inter;
  const double size_a = (a[2] - a[0]) * (a[3] - a[1]);
  if (mode == IouMode::iof) return inter / size_a;
  return inter / (size_a + (b[2] - b[0]) * (b[3] - b[1]) - inter);
}

void image_block(const double* a, int64_t n, const double* b, int64_t m, IouMode mode, double* out) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) *out++ = image_overlap(a + 4 * i, b + 4 * j, mode);
}

void rotated_block(const double* a, int64_t n, const double* b, int64_t m, IouKind kind, IouMode mode, double* out) {
  BoxIouArgs<double> args{};
  args.a = a;
  args.b = b;
  args.n = n;
  args.m = m;
  args.a_columns = args.b_columns = 7;
  args.kind = kind;
  args.mode = mode;
  args.out = out;
  dispatch::box_iou_f64(args);
}

}  // namespace
}  // namespace tenfold::host

using namespace tenfold;
using namespace tenfold::host;

TENFOLD_HOST int64_t tenfold_host_box_iou(int64_t frames, const int64_t* a_offsets, const int64_t* b_offsets,
                                          const double* a, const double* b, int64_t kind, int64_t mode, double* out,
                                          int64_t* bad) {
  return guarded([&]() -> int64_t {
    const int64_t columns = kind == 0 ? 4 : 7;
    for (int64_t which = 0; which < 2; ++which) {
      const int64_t row = first_not_finite(which ? b : a, (which ? b_offsets : a_offsets)[frames], columns);
      if (row < 0) continue;
      bad[0] = which;
      bad[1] = row;
      return 1;
    }
    const auto m = static_cast<IouMode>(mode);
    for (int64_t f = 0; f < frames; ++f) {
      const int64_t rows = a_offsets[f + 1] - a_offsets[f];
      const int64_t others = b_offsets[f + 1] - b_offsets[f];
      if (rows == 0 || others == 0) continue;
      const double* first = a + columns * a_offsets[f];
      const double* second = b + columns * b_offsets[f];
      if (kind == 0) image_block(first, rows, second, others, m, out);
      else rotated_block(first, rows, second, others, kind == 1 ? IouKind::bev : IouKind::volume, m, out);
      out += rows * others;
    }
    return 0;
  });
}
