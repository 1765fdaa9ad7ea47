// Scatter: rows sorted by segment, then one thread per (segment, channel), neighbours in a warp reading neighbouring
// channels. Sums run over ascending rows, as on the CPU, and have its bits.
#include "common/device_check.h"
#include "common/device_segments.h"
#include "scatter/scatter.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class Index>
struct SegmentKey {
  const Index* index;
  int64_t num;
  uint32_t* key;
  __device__ void operator()(int64_t i) const {
    const auto s = static_cast<int64_t>(index[i]);
    key[i] = static_cast<uint32_t>(s >= 0 && s < num ? s : num);
  }
};

template <class T>
struct Reduction {
  const T* feats;
  int64_t channels;
  Reduce reduce;
  Segments segments;
  T* out;
  int32_t* arg;

  // NaN wins over every number, and the first NaN over later ones.
  __device__ bool better(T candidate, T best) const {
    return ((reduce == Reduce::max ? candidate > best : candidate < best) || candidate != candidate) && best == best;
  }
  __device__ void operator()(int64_t i) const {
    const int64_t s = i / channels, c = i % channels;
    const int32_t begin = segments.begin[s], end = segments.begin[s + 1];
    T value = T(0);
    int32_t first = -1;
    if (reduce == Reduce::sum || reduce == Reduce::mean) {
      for (int32_t j = begin; j < end; ++j) value += feats[int64_t{segments.row[j]} * channels + c];
      if (reduce == Reduce::mean && end - begin > 1) value = value / static_cast<T>(end - begin);
    } else {
      for (int32_t j = begin; j < end; ++j) {
        const int32_t row = segments.row[j];
        const T candidate = feats[int64_t{row} * channels + c];
        if (first >= 0 && !better(candidate, value)) continue;
        value = candidate;
        first = row;
      }
    }
    out[i] = value;
    if (arg != nullptr) arg[i] = first;
  }
};

struct SegmentCount {
  Segments segments;
  int32_t* count;
  __device__ void operator()(int64_t s) const { count[s] = segments.begin[s + 1] - segments.begin[s]; }
};

template <class T, class Index>
void reduce_rows(ScatterArgs<T>& a, const Index* index) {
  const Stream& stream = *a.parallel.stream;
  a.bad_row = -1;
  if (a.validate) a.bad_row = first_bad(stream, a.n, IndexOutside<Index>{index, a.num});
  if (a.bad_row >= 0 || a.num == 0) return;
  auto* key = stream.scratch<uint32_t>(a.n);
  each("scatter_key", stream, a.n, SegmentKey<Index>{index, a.num, key});
  const Segments segments = make_segments(stream, key, a.n, a.num);
  each("scatter_count", stream, a.num, SegmentCount{segments, a.count});
  each("scatter_reduce", stream, a.num * a.channels,
       Reduction<T>{a.feats, a.channels, a.reduce, segments, a.out, a.arg});
}

template <class T>
void scatter(ScatterArgs<T>& a) {
  if (a.index32 != nullptr)
    reduce_rows(a, a.index32);
  else
    reduce_rows(a, a.index64);
}

template <class T>
struct Backward {
  ScatterBackwardArgs<T> a;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / a.channels, c = i % a.channels;
    const int64_t s = a.index32 != nullptr ? a.index32[row] : a.index64[row];
    T value = T(0);
    if (s >= 0 && s < a.num) {
      const int64_t at = s * a.channels + c;
      if (a.reduce == Reduce::sum)
        value = a.grad[at];
      else if (a.reduce == Reduce::mean)
        value = a.grad[at] / static_cast<T>(a.count[s]);
      else if (a.arg[at] == static_cast<int32_t>(row))
        value = a.grad[at];
    }
    a.grad_feats[i] = value;
  }
};

template <class T>
void backward(ScatterBackwardArgs<T>& a) {
  each("scatter_backward", *a.parallel.stream, a.n * a.channels, Backward<T>{a});
}

}  // namespace

void scatter_f32(ScatterArgs<float>& args) { scatter(args); }
void scatter_f64(ScatterArgs<double>& args) { scatter(args); }
void scatter_backward_f32(ScatterBackwardArgs<float>& args) { backward(args); }
void scatter_backward_f64(ScatterBackwardArgs<double>& args) { backward(args); }

}  // namespace tenfold::cuda
