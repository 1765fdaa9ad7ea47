// Suppression of rotated boxes: boxes are prepared once, far pairs leave at the test of their circles, the rest is clipped
// in float64 with the CPU kernel's arithmetic. Order and greedy walk as for axis-aligned boxes.
#include "nms/nms_rotated.h"

#include <limits>

#include "common/device_check.h"
#include "iou/device_rects.h"
#include "nms/order_cuda.h"
#include "nms/suppress_cuda.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
struct Fault {
  NmsRotatedArgs<T> a;
  int what;  // 0: any
  __device__ bool operator()(int64_t i) const {
    bool fine = true;
    for (int c = 0; c < a.columns; ++c) fine = fine && is_finite(a.boxes[i * a.columns + c]);
    const int f = !fine ? 1 : a.scores[i] != a.scores[i] ? 2 : 0;
    return what == 0 ? f != 0 : f == what;
  }
};

template <class T>
struct CandidateKey {
  using Key = typename ScoreKey<T>::type;
  Fault<T> fault;
  Key* key;
  __device__ void operator()(int64_t i) const { key[i] = fault(i) ? kNobody<Key> : descending(fault.a.scores[i]); }
};

template <class T>
struct Overlaps {
  const DeviceRect* rects;
  const int64_t* labels;
  const int64_t* batch;
  double threshold;
  bool volume;
  __device__ bool operator()(int32_t i, int32_t j) const {
    if (labels != nullptr && labels[i] != labels[j]) return false;
    if (batch != nullptr && batch[i] != batch[j]) return false;
    const DeviceRect& a = rects[i];
    const DeviceRect& b = rects[j];
    if (!may_touch(a, b)) return false;
    double inter = intersection_area(a.rect, b.rect, 0.0, true);
    double size_a = rect_area(a.rect), size_b = rect_area(b.rect);
    if (volume) {
      inter *= interval_overlap(b.z - a.z, a.h, b.h);
      size_a *= a.h * 2.0;
      size_b *= b.h * 2.0;
    }
    return static_cast<double>(static_cast<T>(over_union(inter, size_a, size_b))) > threshold;
  }
};

// Marks rows of a list that are among the first `most` of their batch element.
struct FirstOfElement {
  const int32_t* row;
  const int32_t* count;
  const int64_t* batch;
  int64_t most;
  int32_t* keep;
  __device__ void operator()(int64_t i) const {
    int64_t before = 0;
    const bool in = i < *count;
    for (int64_t k = 0; in && k < i && before < most; ++k) before += batch[row[k]] == batch[row[i]] ? 1 : 0;
    keep[i] = in && before < most ? 1 : 0;
  }
};

struct Compact {
  const int32_t* row;
  const int32_t* place;  // (n + 1,): sums of the marks
  int32_t* to;
  int32_t* count;
  int64_t n;
  __device__ void operator()(int64_t i) const {
    if (place[i + 1] != place[i]) to[place[i]] = row[i];
    if (i == n - 1) *count = place[n];
  }
};

// The rows of the list, at most `most` of each batch element; n bounds their number.
void limit_elements(const Stream& stream, const int32_t* row, const int32_t* count, const int64_t* batch, int64_t most,
                    int64_t n, int32_t* to, int32_t* to_count) {
  auto* place = stream.scratch<int32_t>(n + 1);
  each("nms_element_rank", stream, n, FirstOfElement{row, count, batch, most, place});
  exclusive_scan<int32_t>(stream, place, n, place, place + n);
  each("nms_compact", stream, n, Compact{row, place, to, to_count, n});
}

struct AtMost {
  int32_t* count;
  int64_t most;
  __device__ void operator()(int64_t) const {
    if (*count > most) *count = static_cast<int32_t>(most);
  }
};

template <class T>
void nms_rotated(NmsRotatedArgs<T>& a) {
  using Key = typename ScoreKey<T>::type;
  const Stream& stream = *a.parallel.stream;
  a.bad_row = -1;
  if (a.validate) a.bad_row = first_bad(stream, a.n, Fault<T>{a, 0});
  if (a.bad_row >= 0) {
    a.bad_what = first_bad(stream, a.n, Fault<T>{a, 1}) == a.bad_row ? 1 : 2;
    return;
  }
  fill_device(stream, a.kept_count, 0, 4);
  if (a.n == 0) return;
  auto* key = stream.scratch<Key>(a.n);
  each("nms_key", stream, a.n, CandidateKey<T>{Fault<T>{a, 0}, key});
  const Sorted<Key> sorted = radix_sort<Key>(stream, key, nullptr, a.n, 8 * sizeof(Key));
  auto* candidates = stream.scratch<int32_t>(1);
  each("nms_count", stream, a.n + 1, CountCandidates<Key>{sorted, a.n, candidates});
  const int32_t* row = sorted.row;
  if (a.pre_max >= 0 && a.batch == nullptr) {
    each("nms_pre_max", stream, 1, AtMost{candidates, a.pre_max});
  } else if (a.pre_max >= 0) {
    auto* best = stream.scratch<int32_t>(a.n);
    auto* number = stream.scratch<int32_t>(1);
    limit_elements(stream, row, candidates, a.batch, a.pre_max, a.n, best, number);
    row = best;
    candidates = number;
  }
  const RectFormat format{a.columns, a.metric == NmsMetric::aligned_bev, a.metric == NmsMetric::volume};
  const Overlaps<T> overlaps{prepare_rects(stream, a.boxes, a.n, format), a.labels, a.batch, a.iou_threshold,
                             a.metric == NmsMetric::volume};
  const bool late = a.post_max >= 0 && a.batch != nullptr;  // elements do not meet: their limits may wait
  int32_t* kept = late ? stream.scratch<int32_t>(a.n) : a.keep;
  int32_t* kept_count = late ? stream.scratch<int32_t>(1) : a.kept_count;
  if (late) fill_device(stream, kept_count, 0, 4);
  const int64_t limit = a.post_max >= 0 && !late && a.post_max < a.n ? a.post_max : a.n;
  suppress(stream, Suppression{row, candidates, kept, kept_count, limit}, a.n, overlaps);
  if (late) limit_elements(stream, kept, kept_count, a.batch, a.post_max, a.n, a.keep, a.kept_count);
}

}  // namespace

void nms_rotated_f32(NmsRotatedArgs<float>& args) { nms_rotated(args); }
void nms_rotated_f64(NmsRotatedArgs<double>& args) { nms_rotated(args); }

}  // namespace tenfold::cuda
