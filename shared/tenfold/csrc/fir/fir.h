// FIR resampling of planes: contract in docs/kernels/fir.md and tenfold.ref.
//
// An axis of n samples is stuffed with up - 1 zeros behind each sample, moved by `pad`, convolved with the taps, and
// every down-th sample is kept: out[j] = sum over k of c[k] s[down j + k - pad], where s[up i] = in[i] and 0 elsewhere,
// and c is the filter turned round (or as it is, with `flip`).
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

// (height, width) taps; separable: `height` taps that work along both axes.
template <class T>
struct FirFilter {
  const T* taps;
  int64_t height, width;
  bool separable;
  bool flip;
};

struct FirAxis {
  int64_t up, down, pad;
};

template <class T>
struct UpfirdnArgs {
  const T* x;  // (planes, in_height, in_width)
  int64_t planes, in_height, in_width, out_height, out_width;
  FirAxis y_axis, x_axis;
  FirFilter<T> filter;
  T gain;
  Parallel parallel;
  T* out;  // (planes, out_height, out_width) out
};

// One operand of filtered_lrelu brought to the resolution of the activation.
template <class T>
struct FirSource {
  const T* data;  // (planes, height, width)
  int64_t height, width, up, pad_left, pad_top;
  FirFilter<T> filter;
  T gain;
};

template <class T>
struct FilteredLreluArgs {
  int64_t planes, channels, mid_height, mid_width, out_height, out_width;
  FirSource<T> x;  // its activation is the result; with `v`, the derivative there multiplies v
  const T* bias;   // (channels) added to x, or null
  FirSource<T> v;  // data null: no derivative
  FirFilter<T> down_filter;
  int64_t down, down_left, down_top;
  T slope, gain, clamp;  // clamp below 0: none
  Parallel parallel;
  T* out;  // (planes, out_height, out_width) out
};

// u = x + bias + noise; out = clamp(gain lrelu(u)), or v times its derivative.
template <class T>
struct BiasActArgs {
  const T* x;      // (batch, channels, inner)
  const T* bias;   // (channels) or null
  const T* noise;  // (noise_batch, inner), noise_batch 1 or batch, or null
  const T* v;      // (batch, channels, inner) or null
  int64_t batch, channels, inner, noise_batch;
  T slope, gain, clamp;
  Parallel parallel;
  T* out;  // (batch, channels, inner) out
};

}  // namespace tenfold

TENFOLD_KERNEL(upfirdn2d_f32, UpfirdnArgs<float>)
TENFOLD_KERNEL(upfirdn2d_f64, UpfirdnArgs<double>)
TENFOLD_KERNEL(filtered_lrelu_f32, FilteredLreluArgs<float>)
TENFOLD_KERNEL(filtered_lrelu_f64, FilteredLreluArgs<double>)
TENFOLD_KERNEL(bias_act_f32, BiasActArgs<float>)
TENFOLD_KERNEL(bias_act_f64, BiasActArgs<double>)
