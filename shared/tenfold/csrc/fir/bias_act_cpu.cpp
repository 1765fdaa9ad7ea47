// Bias, noise, leaky ReLU, gain and clamp in one pass over the map.
#include <algorithm>

#include "common/fma.h"
#include "fir/activation.h"
#include "fir/fir.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kPiece = 1 << 15;  // numbers of a task

// One row of samples that share a channel.
template <class T, bool kDerivative, bool kNoise>
void run_row(const BiasActArgs<T>& a, const T* x, const T* noise, const T* v, T* out, int64_t count, T bias) {
  const bool clamped = a.clamp >= 0;
  const T clamp = clamped ? a.clamp : T(0);
  const vec<T> slope = splat(a.slope), gain = splat(a.gain), bound = splat(clamp), shift = splat(bias);
  int64_t i = 0;
  for (; i + kWidth<T> <= count; i += kWidth<T>) {
    vec<T> u = vload(x + i) + shift;
    if (kNoise) u = u + vload(noise + i);
    vstore(out + i, kDerivative ? vload(v + i) * activation_slope(u, slope, gain, bound, clamped)
                                : activation(u, slope, gain, bound, clamped));
  }
  for (; i < count; ++i) {
    T u = x[i] + bias;
    if (kNoise) u = u + noise[i];
    out[i] = kDerivative ? v[i] * activation_slope(u, a.slope, a.gain, clamp, clamped)
                         : activation(u, a.slope, a.gain, clamp, clamped);
  }
}

template <class T, bool kDerivative, bool kNoise>
void run(const BiasActArgs<T>& a) {
  // Whole rows to a task, or pieces of a long one.
  const int64_t pieces = std::max<int64_t>(1, (a.inner + kPiece - 1) / kPiece);
  const int64_t length = (a.inner + pieces - 1) / pieces;
  const int64_t group = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, length));
  parallel_ranges(a.parallel, a.batch * a.channels * pieces, group, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / pieces, first = task % pieces * length;
      const int64_t count = std::min(length, a.inner - first), at = row * a.inner + first;
      if (count <= 0) continue;
      const int64_t image = a.noise_batch > 1 ? row / a.channels : 0;
      run_row<T, kDerivative, kNoise>(a, a.x + at, kNoise ? a.noise + image * a.inner + first : nullptr,
                                      kDerivative ? a.v + at : nullptr, a.out + at, count,
                                      a.bias == nullptr ? T(0) : a.bias[row % a.channels]);
    }
  });
}

template <class T>
void bias_act(BiasActArgs<T>& a) {
  if (a.v != nullptr) return a.noise != nullptr ? run<T, true, true>(a) : run<T, true, false>(a);
  return a.noise != nullptr ? run<T, false, true>(a) : run<T, false, false>(a);
}

}  // namespace

void bias_act_f32(BiasActArgs<float>& args) { bias_act(args); }
void bias_act_f64(BiasActArgs<double>& args) { bias_act(args); }

TENFOLD_END
