#include "bilinear/bilinear.h"

#include "bilinear/corners.h"

#include <cmath>
#include <cstring>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/grid.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kPositions = 2048;  // of a task
constexpr int64_t kChannels = 16;     // of a task: one cache line of the output in float32

template <class T>
void find_bad(BilinearArgs<T>& a) {
  a.bad_batch = -1;
  if (!a.validate) return;
  const int64_t rows = a.batch * a.n;
  if (all_finite(a.uv, 2 * rows)) return;
  for (int64_t i = 0; i < rows; ++i) {
    if ((a.valid != nullptr && a.valid[i] == 0) || (finite_bits(a.uv[2 * i]) && finite_bits(a.uv[2 * i + 1]))) continue;
    a.bad_batch = i / a.n;
    a.bad_row = i % a.n;
    return;
  }
}

template <class T>
void read_rows(const BilinearArgs<T>& a, const T* map, const Corners<T>& c, T* __restrict out) {
  const T* p[4];
  for (int k = 0; k < 4; ++k) p[k] = map + int64_t{c.pixel[k]} * a.channels;
  const T w0 = c.weight[0], w1 = c.weight[1], w2 = c.weight[2], w3 = c.weight[3];
  for (int64_t i = 0; i < a.channels; ++i)
    out[i] = (p[0][i] * w0 + p[1][i] * w1) + (p[2][i] * w2 + p[3][i] * w3);
}

// Channels [first, end) of one position from planes.
template <class T>
void read_planes(const BilinearArgs<T>& a, const T* map, const Corners<T>& c, int64_t first, int64_t end, T* out) {
  const int64_t area = a.height * a.width;
  for (int64_t i = first; i < end; ++i) {
    const T* plane = map + i * area;
    out[i] = (plane[c.pixel[0]] * c.weight[0] + plane[c.pixel[1]] * c.weight[1]) +
             (plane[c.pixel[2]] * c.weight[2] + plane[c.pixel[3]] * c.weight[3]);
  }
}

struct Task {
  int64_t batch, first_row, end_row, first_channel, end_channel;
};

// Tasks over batch elements, blocks of channels (outermost, so that their planes stay in the cache) and rows.
template <class T, class F>
void for_tasks(const BilinearArgs<T>& a, int64_t channels, int64_t rows, F&& f) {
  const int64_t blocks = (a.channels + channels - 1) / channels;
  const int64_t pieces = a.n > 0 ? (a.n + rows - 1) / rows : 1;
  parallel_tasks(a.parallel, a.batch * blocks * pieces, [&](int64_t task) {
    const int64_t piece = task % pieces, block = task / pieces % blocks, batch = task / pieces / blocks;
    const int64_t row = piece * rows, channel = block * channels;
    f(Task{batch, row, row + rows < a.n ? row + rows : a.n, channel,
           channel + channels < a.channels ? channel + channels : a.channels});
  });
}

template <class T>
void forward(BilinearArgs<T>& a) {
  find_bad(a);
  const int64_t rows = a.batch * a.n;
  if (a.bad_batch >= 0 || rows == 0 || a.channels == 0) return;
  const int64_t size = a.channels * a.height * a.width;
  if (size == 0) {
    fill_bytes(a.out, 0, static_cast<size_t>(rows * a.channels) * sizeof(T));
    return;
  }
  for_tasks(a, a.channels_last ? a.channels : kChannels, kPositions, [&](const Task& t) {
    const T* map = a.feat + t.batch * size;
    for (int64_t row = t.first_row; row < t.end_row; ++row) {
      const int64_t i = t.batch * a.n + row;
      const Corners<T> c = corners_of(a, i);
      T* out = a.out + i * a.channels;
      if (!c.used)
        std::memset(out + t.first_channel, 0, static_cast<size_t>(t.end_channel - t.first_channel) * sizeof(T));
      else if (a.channels_last)
        read_rows(a, map, c, out);
      else
        read_planes(a, map, c, t.first_channel, t.end_channel, out);
    }
  });
}

// Every plane belongs to one task, which adds its rows in ascending order.
template <class T>
void backward_feat(const BilinearArgs<T>& a) {
  const int64_t area = a.height * a.width;
  for_tasks(a, kChannels, a.n > 0 ? a.n : 1, [&](const Task& t) {
    T* map = a.grad_feat + (t.batch * a.channels + t.first_channel) * area;
    const int64_t channels = t.end_channel - t.first_channel;
    std::memset(map, 0, static_cast<size_t>(channels * area) * sizeof(T));
    for (int64_t row = t.first_row; row < t.end_row; ++row) {
      const int64_t i = t.batch * a.n + row;
      const Corners<T> c = corners_of(a, i);
      if (!c.used) continue;
      const T* grad = a.grad + i * a.channels + t.first_channel;
      for (int64_t ch = 0; ch < channels; ++ch)
        for (int k = 0; k < 4; ++k) map[ch * area + c.pixel[k]] += grad[ch] * c.weight[k];
    }
  });
}

// Sum over the channels of gradient times value at a corner, in 16 partial sums whatever the instruction set.
template <class T>
T corner_sum(const BilinearArgs<T>& a, const T* map, int64_t pixel, const T* grad) {
  const int64_t step = a.channels_last ? 1 : a.height * a.width;
  const T* p = map + pixel * (a.channels_last ? a.channels : 1);
  T part[kChannels] = {};
  for (int64_t first = 0; first < a.channels; first += kChannels) {
    const int64_t n = a.channels - first < kChannels ? a.channels - first : kChannels;
    for (int64_t j = 0; j < n; ++j) part[j] += grad[first + j] * p[(first + j) * step];
  }
  for (int64_t width = kChannels / 2; width > 0; width /= 2)
    for (int64_t j = 0; j < width; ++j) part[j] += part[j + width];
  return part[0];
}

template <class T>
void backward_uv(const BilinearArgs<T>& a) {
  const int64_t size = a.channels * a.height * a.width;
  parallel_ranges(a.parallel, a.batch * a.n, kPositions / 4, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Corners<T> c = corners_of(a, i);
      T* to = a.grad_uv + 2 * i;
      to[0] = to[1] = 0;
      if (!c.used) continue;
      T sum[4];
      for (int k = 0; k < 4; ++k)
        sum[k] = c.inside[k] == 0 ? T(0) : corner_sum(a, a.feat + i / a.n * size, c.pixel[k], a.grad + i * a.channels);
      to[0] = (c.y[0] * (sum[1] - sum[0]) + c.y[1] * (sum[3] - sum[2])) * c.slope_x;
      to[1] = (c.x[0] * (sum[2] - sum[0]) + c.x[1] * (sum[3] - sum[1])) * c.slope_y;
    }
  });
}

template <class T>
void backward(BilinearArgs<T>& a) {
  const int64_t size = a.channels * a.height * a.width;
  const int64_t rows = a.batch * a.n;
  if (a.grad_feat != nullptr && size > 0) backward_feat(a);
  if (a.grad_uv == nullptr || rows == 0) return;
  if (size == 0)
    fill_bytes(a.grad_uv, 0, static_cast<size_t>(2 * rows) * sizeof(T));
  else
    backward_uv(a);
}

}  // namespace

void bilinear_f32(BilinearArgs<float>& args) { forward(args); }
void bilinear_f64(BilinearArgs<double>& args) { forward(args); }
void bilinear_backward_f32(BilinearArgs<float>& args) { backward(args); }
void bilinear_backward_f64(BilinearArgs<double>& args) { backward(args); }

TENFOLD_END
