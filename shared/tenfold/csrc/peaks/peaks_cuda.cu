// Peaks: a thread for each pixel tests its window. The best k of a group: all scores are sorted, then, stable, by group;
// what is no peak comes last.
#include "peaks/peaks.h"

#include "common/device_sort.h"
#include "nms/order_cuda.h"
#include "peaks/decode.h"

namespace tenfold::cuda {
namespace {

using namespace device;

// No entry of the window is larger, and none is NaN.
template <class T>
__device__ __forceinline__ bool is_peak(const T* heat, int64_t height, int64_t width, int reach, int64_t at) {
  const int64_t area = height * width, x = at % width, y = at / width % height;
  const T* plane = heat + at / area * area;
  const T value = heat[at];
  const int64_t y0 = y < reach ? 0 : y - reach, y1 = y + reach < height ? y + reach : height - 1;
  const int64_t x0 = x < reach ? 0 : x - reach, x1 = x + reach < width ? x + reach : width - 1;
  for (int64_t v = y0; v <= y1; ++v)
    for (int64_t u = x0; u <= x1; ++u)
      if (!(plane[v * width + u] <= value)) return false;
  return true;
}

template <class T>
struct Mark {
  PeaksAtArgs<T> a;
  __device__ void operator()(int64_t at) const {
    a.out[at] = is_peak(a.heat, a.height, a.width, a.kernel / 2, at) ? 1 : 0;
  }
};

template <class T>
void peaks_at(PeaksAtArgs<T>& a) {
  each("peaks_at", *a.parallel.stream, a.planes * a.height * a.width, Mark<T>{a});
}

template <class T>
struct PeakKey {
  using Key = typename ScoreKey<T>::type;
  TopkPeaksArgs<T> a;
  Key* key;
  __device__ void operator()(int64_t at) const {
    const T value = a.heat[at];
    const bool in = value > static_cast<T>(a.threshold) && is_peak(a.heat, a.height, a.width, a.kernel / 2, at);
    key[at] = in ? descending(value) : kNobody<Key>;
  }
};

struct GroupKey {
  const int32_t* row;
  int64_t size;
  uint32_t* key;
  __device__ void operator()(int64_t q) const { key[q] = static_cast<uint32_t>(row[q] / size); }
};

template <class T>
struct TakeBest {
  TopkPeaksArgs<T> a;
  const typename ScoreKey<T>::type* key;  // of every entry
  const int32_t* row;                     // sorted: one group of `size` after the other
  int64_t size;
  __device__ void operator()(int64_t i) const {
    const int64_t group = i / a.k, j = i % a.k;
    const int64_t at = j < size ? row[group * size + j] : -1;
    const bool found = at >= 0 && key[at] != kNobody<typename ScoreKey<T>::type>;
    a.place[i] = found ? at - group * size : -1;
    a.scores[i] = found ? a.heat[at] : T(-1) / T(0.0f);
  }
};

template <class T>
void topk_peaks(TopkPeaksArgs<T>& a) {
  using Key = typename ScoreKey<T>::type;
  const Stream& stream = *a.parallel.stream;
  const int64_t size = a.planes * a.height * a.width, n = a.groups * size;
  auto* key = stream.scratch<Key>(n);
  each("peak_key", stream, n, PeakKey<T>{a, key});
  const int32_t* row = radix_sort<Key>(stream, key, nullptr, n, 8 * sizeof(Key)).row;
  if (a.groups > 1) {
    auto* group = stream.scratch<uint32_t>(n);
    each("peak_group", stream, n, GroupKey{row, size, group});
    row = radix_sort<uint32_t>(stream, group, row, n, bits_for(static_cast<uint64_t>(a.groups - 1))).row;
  }
  each("topk_peaks", stream, a.groups * a.k, TakeBest<T>{a, key, row, size});
}

struct Decode {
  const int64_t* place;
  int64_t k, channels, height, width;
  bool per_class;
  int64_t *classes, *ys, *xs;
  __device__ void operator()(int64_t i) const {
    const int64_t at = place[i];
    const bool found = at >= 0;
    classes[i] = !found ? -1 : per_class ? i / k % channels : at / (height * width);
    ys[i] = found ? at % (height * width) / width : -1;
    xs[i] = found ? at % width : -1;
  }
};

}  // namespace

void decode_peaks(const Stream& stream, const int64_t* place, int64_t count, int64_t k, int64_t channels,
                  int64_t height, int64_t width, bool per_class, int64_t* classes, int64_t* ys, int64_t* xs) {
  each("decode_peaks", stream, count, Decode{place, k, channels, height, width, per_class, classes, ys, xs});
}

void peaks_at_f32(PeaksAtArgs<float>& args) { peaks_at(args); }
void peaks_at_f64(PeaksAtArgs<double>& args) { peaks_at(args); }
void topk_peaks_f32(TopkPeaksArgs<float>& args) { topk_peaks(args); }
void topk_peaks_f64(TopkPeaksArgs<double>& args) { topk_peaks(args); }

}  // namespace tenfold::cuda
