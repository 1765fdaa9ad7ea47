// Rotated IoU: a thread for each pair; boxes are prepared once (sine, cosine, extent), far pairs leave at the test of
// their circles. The arithmetic is that of the CPU kernel, in float64.
#include "iou/iou.h"

#include "common/device_check.h"
#include "common/device_scan.h"
#include "iou/device_rects.h"
#include "iou/measure.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
struct Pair {
  BoxIouArgs<T> args;
  const DeviceRect* a;
  const DeviceRect* b;
  __device__ void operator()(int64_t at) const {
    const int64_t i = args.paired ? at : at / args.m, j = args.paired ? at : at % args.m;
    T value = T(0);
    if (args.mode == IouMode::giou) {
      if (a[i].full && b[j].full)
        value = static_cast<T>(
            giou(args, a[i].rect, b[j].rect, args.a + i * args.a_columns, args.b + j * args.b_columns));
    } else if (may_touch(a[i], b[j])) {
      double inter = intersection_area(a[i].rect, b[j].rect, 0.0, true);
      double size_a = rect_area(a[i].rect), size_b = rect_area(b[j].rect);
      if (args.kind != IouKind::bev) {
        inter *= interval_overlap(b[j].z - a[i].z, a[i].h, b[j].h);
        size_a *= a[i].h * 2.0;
        size_b *= b[j].h * 2.0;
      }
      value = static_cast<T>(overlap_measure(args.mode, inter, size_a, size_b));
    }
    args.out[at] = value;
  }
};

template <class T>
void box_iou(BoxIouArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const bool aligned = a.kind == IouKind::aligned_volume, volume = a.kind != IouKind::bev;
  const RectFormat fa{a.a_columns, aligned, volume}, fb{a.b_columns, aligned, volume};
  if (!boxes_finite(stream, a, BoxRows<T>{a.a, a.n, fa}, BoxRows<T>{a.b, a.m, fb})) return;
  const Pair<T> pair{a, prepare_rects(stream, a.a, a.n, fa), prepare_rects(stream, a.b, a.m, fb)};
  each("box_iou", stream, a.paired ? a.n : a.n * a.m, pair);
}

// Pairs over the threshold in order of (i, j): counted by row, then written.
template <class T>
struct RowPairs {
  const DeviceRect* a;
  const DeviceRect* b;
  int64_t m;
  double threshold;
  int64_t* begin;  // counts, later places
  int64_t room;    // places
  int64_t* i;      // null: counts
  int64_t* j;
  T* iou;
  __device__ void operator()(int64_t row) const {
    int64_t place = i == nullptr ? 0 : begin[row];
    for (int64_t k = 0; k < m && place < room; ++k) {
      if (!may_touch(a[row], b[k])) continue;
      const double inter = intersection_area(a[row].rect, b[k].rect, 0.0, true);
      const T value = static_cast<T>(over_union(inter, rect_area(a[row].rect), rect_area(b[k].rect)));
      if (!(static_cast<double>(value) > threshold)) continue;
      if (i != nullptr) {
        i[place] = row;
        j[place] = k;
        iou[place] = value;
      }
      ++place;
    }
    if (i == nullptr) begin[row] = place;
  }
};

template <class T>
void pairs_iou(PairsIouArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const RectFormat fa{a.a_columns, false, false}, fb{a.b_columns, false, false};
  if (!boxes_finite(stream, a, BoxRows<T>{a.a, a.n, fa}, BoxRows<T>{a.b, a.m, fb})) return;
  auto* begin = stream.scratch<int64_t>(a.n + 1);
  RowPairs<T> rows{prepare_rects(stream, a.a, a.n, fa), prepare_rects(stream, a.b, a.m, fb), a.m, a.threshold, begin,
                   INT64_MAX, nullptr, nullptr, nullptr};
  each("pairs_iou_count", stream, a.n, rows);
  int64_t* count = a.count_there != nullptr ? a.count_there : begin + a.n;
  exclusive_scan<int64_t>(stream, begin, a.n, begin, count);
  a.count = a.count_there != nullptr ? 0 : read_back(stream, count);
  a.allocate(a);
  rows.room = a.room;
  rows.i = a.i;
  rows.j = a.j;
  rows.iou = a.iou;
  if (a.i != nullptr) each("pairs_iou_write", stream, a.n, rows);
}

}  // namespace

void box_iou_f32(BoxIouArgs<float>& args) { box_iou(args); }
void box_iou_f64(BoxIouArgs<double>& args) { box_iou(args); }
void pairs_iou_f32(PairsIouArgs<float>& args) { pairs_iou(args); }
void pairs_iou_f64(PairsIouArgs<double>& args) { pairs_iou(args); }

}  // namespace tenfold::cuda
