// Interpolation: a thread for each result; its gradient sums over the transposed table in ascending order.
#include "interpolate/interpolate.h"

#include "common/device_table.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
struct Weighted {
  InterpolateArgs<T> a;
  __device__ void operator()(int64_t i) const {
    const IndexTable& t = a.table;
    const int64_t g = i / a.channels, c = i % a.channels;
    const T* feats = a.feats + g / t.groups * t.n * a.channels + c;
    int64_t named = 0;
    T sum = T(0), first = T(0);
    for (int64_t j = 0; j < t.k; ++j) {
      const int64_t row = table_at(t, g * t.k + j);
      if (row < 0 || row >= t.n) continue;
      const T part = rn_mul(a.weight[g * t.k + j], feats[row * a.channels]);
      if (named == 0) first = part;
      ++named;
      sum = rn_add(sum, part);
    }
    // As the CPU kernel: all three named, nothing is added to zero first (it matters for -0 alone).
    if (t.k == 3 && named == 3 && sum == T(0)) {
      sum = first;
      for (int64_t j = 1; j < 3; ++j)
        sum = rn_add(sum, rn_mul(a.weight[g * 3 + j], feats[table_at(t, g * 3 + j) * a.channels]));
    }
    a.out[i] = sum;
  }
};

template <class T>
void interpolate(InterpolateArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  if (!check_table(stream, a.table, nullptr)) return;
  each("interpolate", stream, a.table.elements * a.table.groups * a.channels, Weighted<T>{a});
}

template <class T>
struct FeatsGradient {
  InterpolateBackwardArgs<T> a;
  Segments segments;  // entries that name each row
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / a.channels, c = i % a.channels;
    T sum = T(0);
    for (int32_t j = segments.begin[row]; j < segments.begin[row + 1]; ++j) {
      const int64_t entry = segments.row[j];
      sum = rn_add(sum, rn_mul(a.weight[entry], a.grad[entry / a.table.k * a.channels + c]));
    }
    a.grad_feats[i] = sum;
  }
};

// Sixteen partial sums, added in the CPU kernel's order.
template <class T>
struct WeightGradient {
  InterpolateBackwardArgs<T> a;
  __device__ void operator()(int64_t e) const {
    constexpr int kParts = 16;
    const IndexTable& t = a.table;
    const int64_t g = e / t.k, row = table_at(t, e);
    T part[kParts] = {};
    if (row >= 0 && row < t.n) {
      const T* x = a.feats + (g / t.groups * t.n + row) * a.channels;
      const T* y = a.grad + g * a.channels;
      for (int64_t first = 0; first < a.channels; first += kParts)
        for (int p = 0; p < kParts; ++p)
          if (first + p < a.channels) part[p] = rn_add(part[p], rn_mul(x[first + p], y[first + p]));
      for (int step = kParts / 2; step > 0; step /= 2)
        for (int p = 0; p < step; ++p) part[p] = rn_add(part[p], part[p + step]);
    }
    a.grad_weight[e] = part[0];
  }
};

template <class T>
void backward(InterpolateBackwardArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const IndexTable& t = a.table;
  if (a.grad_feats != nullptr && t.elements * t.n * a.channels > 0)
    each("interpolate_feats", stream, t.elements * t.n * a.channels, FeatsGradient<T>{a, transpose(stream, t)});
  if (a.grad_weight != nullptr) each("interpolate_weight", stream, t.entries(), WeightGradient<T>{a});
}

}  // namespace

void interpolate_f32(InterpolateArgs<float>& args) { interpolate(args); }
void interpolate_f64(InterpolateArgs<double>& args) { interpolate(args); }
void interpolate_backward_f32(InterpolateBackwardArgs<float>& args) { backward(args); }
void interpolate_backward_f64(InterpolateBackwardArgs<double>& args) { backward(args); }

}  // namespace tenfold::cuda
