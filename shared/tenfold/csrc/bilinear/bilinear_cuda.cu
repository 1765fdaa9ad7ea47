// Bilinear sampling: a thread for each position and channel. The gradient of the map sums, for each pixel, the positions
// that read it in ascending order; that of the positions adds channels in sixteen parts, as the CPU kernel does.
#include "bilinear/bilinear.h"

#include "bilinear/corners.h"
#include "common/device_check.h"
#include "common/device_segments.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
__device__ __forceinline__ T feat_at(const BilinearArgs<T>& a, int64_t batch, int64_t pixel, int64_t c) {
  const int64_t area = a.height * a.width;
  return a.channels_last ? a.feat[(batch * area + pixel) * a.channels + c]
                         : a.feat[(batch * a.channels + c) * area + pixel];
}

template <class T>
struct Sample {
  BilinearArgs<T> a;
  __device__ void operator()(int64_t at) const {
    const int64_t i = at / a.channels, c = at % a.channels, batch = i / a.n;
    T value = T(0);
    if (a.height * a.width > 0) {
      const Corners<T> k = corners_of(a, i);
      if (k.used)
        value = rn_add(rn_add(rn_mul(feat_at(a, batch, k.pixel[0], c), k.weight[0]),
                              rn_mul(feat_at(a, batch, k.pixel[1], c), k.weight[1])),
                       rn_add(rn_mul(feat_at(a, batch, k.pixel[2], c), k.weight[2]),
                              rn_mul(feat_at(a, batch, k.pixel[3], c), k.weight[3])));
    }
    a.out[at] = value;
  }
};

template <class T>
struct BadPosition {
  BilinearArgs<T> a;
  __device__ bool operator()(int64_t i) const {
    return (a.valid == nullptr || a.valid[i] != 0) && !(is_finite(a.uv[2 * i]) && is_finite(a.uv[2 * i + 1]));
  }
};

template <class T>
void forward(BilinearArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  a.bad_batch = -1;
  if (a.validate) {
    const int64_t bad = first_bad(stream, a.batch * a.n, BadPosition<T>{a});
    if (bad >= 0) {
      a.bad_batch = bad / a.n;
      a.bad_row = bad % a.n;
      return;
    }
  }
  each("bilinear", stream, a.batch * a.n * a.channels, Sample<T>{a});
}

// The pixel of every (position, corner); behind the last pixel for positions that are not used.
template <class T>
struct CornerKey {
  BilinearArgs<T> a;
  uint32_t* key;
  __device__ void operator()(int64_t e) const {
    const int64_t i = e / 4, area = a.height * a.width;
    const Corners<T> k = corners_of(a, i);
    key[e] = static_cast<uint32_t>(k.used ? i / a.n * area + k.pixel[e % 4] : a.batch * area);
  }
};

template <class T>
struct MapGradient {
  BilinearArgs<T> a;
  Segments segments;
  __device__ void operator()(int64_t at) const {  // (batch, channel, pixel)
    const int64_t area = a.height * a.width, pixel = at % area, c = at / area % a.channels, batch = at / area / a.channels;
    T sum = T(0);
    const int64_t s = batch * area + pixel;
    for (int32_t j = segments.begin[s]; j < segments.begin[s + 1]; ++j) {
      const int64_t e = segments.row[j];
      const Corners<T> k = corners_of(a, e / 4);
      sum = rn_add(sum, rn_mul(a.grad[e / 4 * a.channels + c], k.weight[e % 4]));
    }
    a.grad_feat[at] = sum;
  }
};

template <class T>
struct PositionGradient {
  BilinearArgs<T> a;
  __device__ T corner_sum(int64_t i, int64_t pixel) const {
    constexpr int kParts = 16;
    T part[kParts] = {};
    for (int64_t first = 0; first < a.channels; first += kParts)
      for (int j = 0; j < kParts; ++j)
        if (first + j < a.channels)
          part[j] = rn_add(part[j], rn_mul(a.grad[i * a.channels + first + j], feat_at(a, i / a.n, pixel, first + j)));
    for (int width = kParts / 2; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) part[j] = rn_add(part[j], part[j + width]);
    return part[0];
  }
  __device__ void operator()(int64_t i) const {
    T to[2] = {0, 0};
    if (a.channels * a.height * a.width > 0) {
      const Corners<T> c = corners_of(a, i);
      T sum[4] = {};
      for (int k = 0; c.used && k < 4; ++k) sum[k] = c.inside[k] == 0 ? T(0) : corner_sum(i, c.pixel[k]);
      if (c.used) {
        to[0] = (c.y[0] * (sum[1] - sum[0]) + c.y[1] * (sum[3] - sum[2])) * c.slope_x;
        to[1] = (c.x[0] * (sum[2] - sum[0]) + c.x[1] * (sum[3] - sum[1])) * c.slope_y;
      }
    }
    a.grad_uv[2 * i] = to[0];
    a.grad_uv[2 * i + 1] = to[1];
  }
};

template <class T>
void backward(BilinearArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const int64_t area = a.height * a.width, rows = a.batch * a.n;
  if (a.grad_feat != nullptr && a.batch * a.channels * area > 0) {
    auto* key = stream.scratch<uint32_t>(4 * rows);
    each("bilinear_key", stream, 4 * rows, CornerKey<T>{a, key});
    const Segments segments = make_segments(stream, key, 4 * rows, a.batch * area);
    each("bilinear_map", stream, a.batch * a.channels * area, MapGradient<T>{a, segments});
  }
  if (a.grad_uv != nullptr) each("bilinear_uv", stream, rows, PositionGradient<T>{a});
}

}  // namespace

void bilinear_f32(BilinearArgs<float>& args) { forward(args); }
void bilinear_f64(BilinearArgs<double>& args) { forward(args); }
void bilinear_backward_f32(BilinearArgs<float>& args) { backward(args); }
void bilinear_backward_f64(BilinearArgs<double>& args) { backward(args); }

}  // namespace tenfold::cuda
