#include "nms/nms.h"

#include <cmath>

#include "common/arena.h"
#include "common/radix.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

template <class T>
struct OrderKey;
template <>
struct OrderKey<float> {
  using type = uint32_t;
};
template <>
struct OrderKey<double> {
  using type = uint64_t;
};

template <class T>
bool finite_box(const T* b) {
  return std::isfinite(b[0]) && std::isfinite(b[1]) && std::isfinite(b[2]) && std::isfinite(b[3]);
}

template <class T>
void validate_rows(NmsArgs<T>& a) {
  for (int64_t i = 0; i < a.n && a.bad_row < 0; ++i) {
    const T* b = a.boxes + 4 * i;
    a.bad_what = !finite_box(b) ? 1 : (b[2] < b[0] || b[3] < b[1]) ? 2 : std::isnan(a.scores[i]) ? 3 : 0;
    if (a.bad_what != 0) a.bad_row = i;
  }
}

template <class T>
void nms(NmsArgs<T>& a) {
  using Key = typename OrderKey<T>::type;
  a.kept = 0;
  a.bad_row = -1;
  a.bad_what = 0;
  if (a.validate) {
    validate_rows(a);
    if (a.bad_row >= 0) return;
  }
  Scratch scratch;
  Key* key = scratch.take<Key>(a.n);
  int32_t* row = scratch.take<int32_t>(a.n);
  int64_t m = 0;
  for (int64_t i = 0; i < a.n; ++i) {
    const T s = a.scores[i];
    if (std::isnan(s) || !finite_box(a.boxes + 4 * i)) continue;
    if (a.use_score_threshold && !(static_cast<double>(s) > a.score_threshold)) continue;
    key[m] = static_cast<Key>(~float_order_bits(s));  // ascending key = descending score
    row[m++] = static_cast<int32_t>(i);
  }
  radix_sort(key, row, m);
  T* kept = scratch.take<T>(5 * m);  // x1 y1 x2 y2 area of each kept box
  const int64_t limit = a.max_out < 0 ? m : a.max_out;
  for (int64_t r = 0; r < m && a.kept < limit; ++r) {
    const T* b = a.boxes + 4 * row[r];
    const T w = b[2] - b[0];
    const T h = b[3] - b[1];
    const T area = (w > 0 ? w : 0) * (h > 0 ? h : 0);
    bool keep = true;
    for (int64_t k = 0; k < a.kept && keep; ++k) {
      const T* o = kept + 5 * k;
      const T iw = (b[2] < o[2] ? b[2] : o[2]) - (b[0] > o[0] ? b[0] : o[0]);
      const T ih = (b[3] < o[3] ? b[3] : o[3]) - (b[1] > o[1] ? b[1] : o[1]);
      const T inter = (iw > 0 ? iw : 0) * (ih > 0 ? ih : 0);
      const T iou = inter / (o[4] + area - inter);
      keep = !(static_cast<double>(iou) > a.iou_threshold);
    }
    if (!keep) continue;
    T* o = kept + 5 * a.kept;
    for (int c = 0; c < 4; ++c) o[c] = b[c];
    o[4] = area;
    a.keep[a.kept++] = row[r];
  }
}

}  // namespace

void nms_f32(NmsArgs<float>& args) { nms(args); }
void nms_f64(NmsArgs<double>& args) { nms(args); }

TENFOLD_END
