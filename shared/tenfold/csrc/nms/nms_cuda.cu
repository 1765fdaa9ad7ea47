// Suppression of axis-aligned boxes: order by radix sort, then nms/suppress_cuda.h.
#include "nms/nms.h"

#include <limits>

#include "common/device_check.h"
#include "nms/order_cuda.h"
#include "nms/result.h"
#include "nms/suppress_cuda.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
__device__ __forceinline__ int fault(const NmsArgs<T>& a, int64_t i) {
  const T* b = a.boxes + 4 * i;
  if (!(is_finite(b[0]) && is_finite(b[1]) && is_finite(b[2]) && is_finite(b[3]))) return 1;
  return b[2] < b[0] || b[3] < b[1] ? 2 : a.scores[i] != a.scores[i] ? 3 : 0;
}

template <class T>
struct Fault {
  NmsArgs<T> a;
  int what;  // 0: any
  __device__ bool operator()(int64_t i) const {
    const int f = fault(a, i);
    return what == 0 ? f != 0 : f == what;
  }
};

template <class T>
struct CandidateKey {
  using Key = typename ScoreKey<T>::type;
  NmsArgs<T> a;
  Key* key;
  __device__ void operator()(int64_t i) const {
    const T s = a.scores[i];
    const bool in = fault(a, i) != 1 && s == s &&
                    (!a.use_score_threshold || static_cast<double>(s) > a.score_threshold);
    key[i] = in ? descending(s) : kNobody<Key>;
  }
};

// fl(inter / ((A_i + A_j) - inter)) > threshold, as the CPU kernel decides it.
template <class T>
struct Overlaps {
  const T* boxes;
  const int64_t* labels;
  const int64_t* batch;
  T threshold;  // the largest T that is not above the double threshold
  T largest;

  __device__ bool has_area(T area) const { return area > 0 && area <= largest; }
  __device__ bool operator()(int32_t i, int32_t j) const {
    if (labels != nullptr && labels[i] != labels[j]) return false;
    if (batch != nullptr && batch[i] != batch[j]) return false;
    const T* a = boxes + 4 * int64_t{i};
    const T* b = boxes + 4 * int64_t{j};
    const T wa = a[2] - a[0], ha = a[3] - a[1], wb = b[2] - b[0], hb = b[3] - b[1];
    const T area_a = rn_mul(wa > 0 ? wa : T(0), ha > 0 ? ha : T(0)), area_b = rn_mul(wb > 0 ? wb : T(0), hb > 0 ? hb : T(0));
    if (!has_area(area_a) || !has_area(area_b)) return false;
    const T w = (a[2] < b[2] ? a[2] : b[2]) - (a[0] > b[0] ? a[0] : b[0]);
    const T h = (a[3] < b[3] ? a[3] : b[3]) - (a[1] > b[1] ? a[1] : b[1]);
    if (!(w > 0 && h > 0)) return false;
    const T inter = rn_mul(w, h);
    return rn_div(inter, rn_add(rn_add(area_a, area_b), -inter)) > threshold;
  }
};

template <class T>
void nms(NmsArgs<T>& a) {
  using Key = typename ScoreKey<T>::type;
  const Stream& stream = *a.parallel.stream;
  a.bad_row = -1;
  if (a.validate) a.bad_row = first_bad(stream, a.n, Fault<T>{a, 0});
  if (a.bad_row >= 0) {
    for (a.bad_what = 1; a.bad_what < 3; ++a.bad_what)
      if (first_bad(stream, a.n, Fault<T>{a, a.bad_what}) == a.bad_row) return;
    return;
  }
  auto* key = stream.scratch<Key>(a.n);
  each("nms_key", stream, a.n, CandidateKey<T>{a, key});
  const Sorted<Key> sorted = radix_sort<Key>(stream, key, nullptr, a.n, 8 * sizeof(Key));
  auto* candidates = stream.scratch<int32_t>(1);
  each("nms_count", stream, a.n + 1, CountCandidates<Key>{sorted, a.n, candidates});
  fill_device(stream, a.kept_count, 0, 4);
  T threshold = static_cast<T>(a.iou_threshold);
  if (static_cast<double>(threshold) > a.iou_threshold) threshold = std::nextafter(threshold, T(-1));
  const int64_t limit = a.max_out >= 0 && a.max_out < a.n ? a.max_out : a.n;
  suppress(stream, Suppression{sorted.row, candidates, a.keep, a.kept_count, limit}, a.n,
           Overlaps<T>{a.boxes, a.labels, a.batch, threshold, std::numeric_limits<T>::max()});
}

struct WriteKept {
  const int32_t* rows;
  const int32_t* kept;
  int64_t* to;
  __device__ void operator()(int64_t i) const { to[i] = i < *kept ? rows[i] : -1; }
};

}  // namespace

int64_t kept_rows(const Stream& stream, const int32_t* kept) { return read_back(stream, kept); }

void write_kept(const Stream& stream, const int32_t* rows, const int32_t* kept, int64_t size, int64_t* to,
                int32_t* count) {
  each("write_kept", stream, size, WriteKept{rows, kept, to});
  if (count != nullptr) copy_one(stream, kept, count);
}

void nms_f32(NmsArgs<float>& args) { nms(args); }
void nms_f64(NmsArgs<double>& args) { nms(args); }

}  // namespace tenfold::cuda
