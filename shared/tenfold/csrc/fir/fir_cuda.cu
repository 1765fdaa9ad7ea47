// FIR filters and their activation: a thread for each number of a map. The activation's map lives in scratch, a bounded
// number of planes at a time.
#include "common/device.h"
#include "fir/activation.h"
#include "fir/fir.h"

namespace tenfold::cuda {
namespace {

using namespace device;

constexpr int64_t kMidNumbers = int64_t{1} << 26;  // of the activation's map at once

template <class T>
__device__ __forceinline__ T tap(const FirFilter<T>& f, int64_t y, int64_t x) {
  if (f.separable) {
    const int64_t last = f.height - 1;
    return rn_mul(f.taps[f.flip ? y : last - y], f.taps[f.flip ? x : last - x]);
  }
  const int64_t at = y * f.width + x;
  return f.taps[f.flip ? at : f.height * f.width - 1 - at];
}

// The first tap of an output that meets a sample instead of stuffed zeros, and that sample (it may be outside); every
// axis.up-th tap from there on meets the next one.
struct Meeting {
  int64_t tap, sample;
};
__device__ __forceinline__ Meeting meeting(const FirAxis& axis, int64_t out) {
  const int64_t first = axis.down * out - axis.pad, rest = first % axis.up;
  const int64_t tap = rest > 0 ? axis.up - rest : -rest;
  return {tap, (first + tap) / axis.up};
}

// Output (j, i) of one plane of height x width numbers, `shift` added to each of them.
template <class T>
__device__ T filtered(const T* plane, int64_t height, int64_t width, T shift, const FirAxis& y_axis,
                      const FirAxis& x_axis, const FirFilter<T>& f, int64_t j, int64_t i) {
  const int64_t columns = f.separable ? f.height : f.width;
  const Meeting top = meeting(y_axis, j), left = meeting(x_axis, i);
  T sum = T(0);
  for (int64_t ky = top.tap, y = top.sample; ky < f.height && y < height; ky += y_axis.up, ++y) {
    if (y < 0) continue;
    for (int64_t kx = left.tap, x = left.sample; kx < columns && x < width; kx += x_axis.up, ++x)
      if (x >= 0) sum = rn_add(sum, rn_mul(tap(f, ky, kx), rn_add(plane[y * width + x], shift)));
  }
  return sum;
}

template <class T>
struct Resample {
  UpfirdnArgs<T> a;
  __device__ void operator()(int64_t at) const {
    const int64_t i = at % a.out_width, j = at / a.out_width % a.out_height, plane = at / a.out_width / a.out_height;
    const T* from = a.x + plane * a.in_height * a.in_width;
    a.out[at] = rn_mul(a.gain, filtered(from, a.in_height, a.in_width, T(0), a.y_axis, a.x_axis, a.filter, j, i));
  }
};

template <class T>
void resample(UpfirdnArgs<T>& a) {
  each("upfirdn2d", *a.parallel.stream, a.planes * a.out_height * a.out_width, Resample<T>{a});
}

template <class T>
__device__ T raised(const FirSource<T>& s, int64_t plane, T shift, int64_t j, int64_t i) {
  const T* from = s.data + plane * s.height * s.width;
  return rn_mul(s.gain, filtered(from, s.height, s.width, shift, FirAxis{s.up, 1, s.pad_top},
                                 FirAxis{s.up, 1, s.pad_left}, s.filter, j, i));
}

// The activation's map of planes [first, ...), or v times its derivative.
template <class T>
struct Middle {
  FilteredLreluArgs<T> a;
  int64_t first;
  T* mid;
  __device__ void operator()(int64_t at) const {
    const int64_t i = at % a.mid_width, j = at / a.mid_width % a.mid_height;
    const int64_t plane = first + at / a.mid_width / a.mid_height;
    const T u = raised(a.x, plane, a.bias == nullptr ? T(0) : a.bias[plane % a.channels], j, i);
    const bool clamped = a.clamp >= 0;
    mid[at] = a.v.data == nullptr
                  ? activation(u, a.slope, a.gain, a.clamp, clamped)
                  : rn_mul(raised(a.v, plane, T(0), j, i), activation_slope(u, a.slope, a.gain, a.clamp, clamped));
  }
};

template <class T>
struct Down {
  FilteredLreluArgs<T> a;
  int64_t first;
  const T* mid;
  __device__ void operator()(int64_t at) const {
    const int64_t i = at % a.out_width, j = at / a.out_width % a.out_height, plane = at / a.out_width / a.out_height;
    const T* from = mid + plane * a.mid_height * a.mid_width;
    a.out[first * a.out_height * a.out_width + at] =
        filtered(from, a.mid_height, a.mid_width, T(0), FirAxis{1, a.down, a.down_top},
                 FirAxis{1, a.down, a.down_left}, a.down_filter, j, i);
  }
};

template <class T>
void filtered_lrelu(FilteredLreluArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const int64_t area = a.mid_height * a.mid_width;
  if (a.planes * area == 0) return;
  const int64_t most = kMidNumbers / area > 1 ? kMidNumbers / area : 1;
  const int64_t together = most < a.planes ? most : a.planes;
  T* mid = stream.scratch<T>(together * area);
  for (int64_t first = 0; first < a.planes; first += together) {
    const int64_t planes = a.planes - first < together ? a.planes - first : together;
    each("filtered_lrelu_up", stream, planes * area, Middle<T>{a, first, mid});
    each("filtered_lrelu_down", stream, planes * a.out_height * a.out_width, Down<T>{a, first, mid});
  }
}

template <class T>
struct BiasAct {
  BiasActArgs<T> a;
  __device__ void operator()(int64_t at) const {
    const int64_t i = at % a.inner, row = at / a.inner, channel = row % a.channels, image = row / a.channels;
    T u = rn_add(a.x[at], a.bias == nullptr ? T(0) : a.bias[channel]);
    if (a.noise != nullptr) u = rn_add(u, a.noise[(a.noise_batch > 1 ? image : 0) * a.inner + i]);
    const bool clamped = a.clamp >= 0;
    a.out[at] = a.v == nullptr ? activation(u, a.slope, a.gain, a.clamp, clamped)
                               : rn_mul(a.v[at], activation_slope(u, a.slope, a.gain, a.clamp, clamped));
  }
};

template <class T>
void bias_act(BiasActArgs<T>& a) {
  each("bias_act", *a.parallel.stream, a.batch * a.channels * a.inner, BiasAct<T>{a});
}

}  // namespace

void upfirdn2d_f32(UpfirdnArgs<float>& args) { resample(args); }
void upfirdn2d_f64(UpfirdnArgs<double>& args) { resample(args); }
void filtered_lrelu_f32(FilteredLreluArgs<float>& args) { filtered_lrelu(args); }
void filtered_lrelu_f64(FilteredLreluArgs<double>& args) { filtered_lrelu(args); }
void bias_act_f32(BiasActArgs<float>& args) { bias_act(args); }
void bias_act_f64(BiasActArgs<double>& args) { bias_act(args); }

}  // namespace tenfold::cuda
