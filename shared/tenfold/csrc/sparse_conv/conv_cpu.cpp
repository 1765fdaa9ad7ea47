// Output-stationary: a block of output rows accumulates in a small tile while the kernel offsets pass by; for
// each, the rows that are present are gathered side by side and multiplied by that offset's weights. Nothing is
// scattered, so sums have one order whatever the threads do.
#include "sparse_conv/conv.h"

#include <algorithm>
#include <cstring>

#include "common/arena.h"
#include "common/vec.h"
#include "sparse_conv/tile.h"

TENFOLD_BEGIN

namespace {

// Output rows of a block: large ones reuse the weights and leave fewer rest tiles, the tile must stay in cache.
constexpr int64_t kMostRows = 1024;
constexpr int64_t kTileBytes = 128 * 1024;

template <class T>
int64_t block_rows(int64_t width) {
  int64_t rows = kMostRows;
  while (rows > 128 && rows * width * static_cast<int64_t>(sizeof(T)) > kTileBytes) rows /= 2;
  return rows;
}

// Weights as (K, chunks, c_in, P vectors) with zeros behind c_out: each tile reads one run of memory.
template <class T>
struct Panels {
  static constexpr int L = Vector<T>::lanes;
  const T* data;
  int64_t vectors;  // of output channels, rounded up
  int64_t c_in;

  Panels(Scratch& scratch, const T* weight, int64_t c_out, int64_t offsets, int64_t c_in_)
      : vectors((c_out + L - 1) / L), c_in(c_in_) {
    const int64_t width = vectors * L;
    T* packed = scratch.take<T>(offsets * c_in * width);
    for (int64_t k = 0; k < offsets; ++k) {
      T* base = packed + k * c_in * width;
      int64_t first = 0;
      while (first < vectors) {
        const int64_t p = panels_at(first);
        T* chunk = base + first * L * c_in;
        for (int64_t o = 0; o < p * L; ++o) {
          const int64_t channel = first * L + o;
          const T* from = weight + (channel * offsets + k) * c_in;
          for (int64_t c = 0; c < c_in; ++c) chunk[c * p * L + o] = channel < c_out ? from[c] : T(0);
        }
        first += p;
      }
    }
    data = packed;
  }

  // Vectors in the chunk that starts at `first`.
  int64_t panels_at(int64_t first) const {
    const int64_t left = vectors - first;
    return left >= kMaxPanels ? kMaxPanels : left >= 2 ? 2 : 1;
  }

  const T* chunk(int64_t k, int64_t first) const { return data + (k * vectors + first) * L * c_in; }
};

template <class T, int P>
void multiply_depth(const T* a, int64_t n, int64_t depth, const T* w, T* out, int64_t step, const int32_t* place) {
  constexpr int R = tile_rows<P>();
  switch (depth) {
    case 16: return multiply_rows<T, P, 16, R>(a, n, depth, w, out, step, place);
    case 32: return multiply_rows<T, P, 32, R>(a, n, depth, w, out, step, place);
    case 64: return multiply_rows<T, P, 64, R>(a, n, depth, w, out, step, place);
    case 128: return multiply_rows<T, P, 128, R>(a, n, depth, w, out, step, place);
    default: return multiply_rows<T, P, 0, R>(a, n, depth, w, out, step, place);
  }
}

// Output rows of [begin, end) that offset k reaches: their place in the block and their input row.
int64_t present_rows(const int32_t* entries, int64_t rows, int32_t* place, int32_t* input) {
  int64_t n = 0;
  const vint lane = viota();
  for (int64_t i = 0; i < rows; i += kLanes) {
    vint v;
    if (i + kLanes <= rows) {
      v = vload(entries + i);
    } else {
      v = vset(int32_t{-1});
      std::memcpy(&v, entries + i, static_cast<size_t>(rows - i) * sizeof(int32_t));
    }
    const lane_mask hit = ~vlt(v, vint{}) & kAllLanes;
    if (hit == 0) continue;
    vcompress(place + n, lane + static_cast<int32_t>(i), hit);
    n += vcompress(input + n, v, hit);
  }
  return n;
}

// CHANNELS > 0 fixes the width at compile time: a row is then a few vector moves and no call.
template <class T, int CHANNELS>
void gather_rows(const T* features, int64_t channels, const int32_t* row, int64_t n, T* to) {
  const int64_t width = CHANNELS > 0 ? CHANNELS : channels;
  for (int64_t i = 0; i < n; ++i) {
    if (i + 8 < n) prefetch(features + row[i + 8] * width);
    std::memcpy(to + i * width, features + row[i] * width, static_cast<size_t>(width) * sizeof(T));
  }
}

template <class T>
void gather(const T* features, int64_t channels, const int32_t* row, int64_t n, T* to) {
  switch (channels) {
    case 16: return gather_rows<T, 16>(features, channels, row, n, to);
    case 32: return gather_rows<T, 32>(features, channels, row, n, to);
    case 64: return gather_rows<T, 64>(features, channels, row, n, to);
    default: return gather_rows<T, 0>(features, channels, row, n, to);
  }
}

// The n input rows side by side: in `to`, or where they are when they follow each other already, as those of a
// submanifold layer's middle offset do.
template <class T>
const T* side_by_side(const T* features, int64_t channels, const int32_t* row, int64_t n, T* to) {
  int64_t i = 0;
  if (row[n - 1] - row[0] == n - 1)
    while (i < n && row[i] == row[0] + i) ++i;
  if (i == n) return features + row[0] * channels;
  gather(features, channels, row, n, to);
  return to;
}

bool table_fits(const int32_t* table, int64_t entries, int64_t in_rows) {
  int32_t most = -1;
  for (int64_t i = 0; i < entries; ++i) most = table[i] > most ? table[i] : most;
  return most < in_rows;
}

template <class T>
void sparse_conv(SparseConvArgs<T>& a) {
  constexpr int L = Vector<T>::lanes;
  a.bad = !table_fits(a.table, a.offsets * a.out_rows, a.in_rows);
  if (a.bad) return;
  Scratch scratch;
  const Panels<T> panels(scratch, a.weight, a.c_out, a.offsets, a.c_in);
  const int64_t width = panels.vectors * L;
  const int64_t block = block_rows<T>(std::max(width, a.c_in));
  parallel_ranges(a.parallel, a.out_rows, block, [&](int64_t, int64_t begin, int64_t end) {
    Scratch local;
    const int64_t rows = end - begin;
    // Where no channels are padded, the block's own output is the tile.
    const bool direct = width == a.c_out;
    T* tile = direct ? a.out + begin * width : local.take<T>(block * width);
    T* gathered = local.take<T>(block * a.c_in);
    int32_t* place = local.take<int32_t>(block + kLanes);
    int32_t* input = local.take<int32_t>(block + kLanes);
    for (int64_t r = 0; r < rows; ++r) {
      T* to = tile + r * width;
      for (int64_t c = 0; c < width; ++c) to[c] = a.bias != nullptr && c < a.c_out ? a.bias[c] : T(0);
    }
    for (int64_t k = 0; k < a.offsets; ++k) {
      const int64_t n = present_rows(a.table + k * a.out_rows + begin, rows, place, input);
      if (n == 0) continue;
      const T* x = side_by_side(a.features, a.c_in, input, n, gathered);
      for (int64_t first = 0; first < panels.vectors;) {
        const int64_t p = panels.panels_at(first);
        const T* w = panels.chunk(k, first);
        T* out = tile + first * L;
        if (p == 1) multiply_depth<T, 1>(x, n, a.c_in, w, out, width, place);
        if (p == 2) multiply_depth<T, 2>(x, n, a.c_in, w, out, width, place);
        if constexpr (kMaxPanels == 4) {
          if (p == 4) multiply_depth<T, 4>(x, n, a.c_in, w, out, width, place);
        }
        first += p;
      }
    }
    for (int64_t r = 0; r < rows && !direct; ++r)
      std::memcpy(a.out + (begin + r) * a.c_out, tile + r * width, static_cast<size_t>(a.c_out) * sizeof(T));
  });
}

// acc (I input channels x P vectors of output channels) += x^T g over n rows.
template <class T, int I, int P>
void outer_tile(const T* x, int64_t c_in, const T* g, int64_t g_step, int64_t n, T* acc, int64_t acc_step) {
  typedef typename Vector<T>::type V;
  constexpr int L = Vector<T>::lanes;
  V sum[I][P];
#pragma GCC unroll 8
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) std::memcpy(&sum[i][p], acc + i * acc_step + p * L, sizeof(V));
  for (int64_t r = 0; r < n; ++r) {
    V grad[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) std::memcpy(&grad[p], g + r * g_step + p * L, sizeof(V));
#pragma GCC unroll 8
    for (int i = 0; i < I; ++i) {
      const V v = splat(x[r * c_in + i]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sum[i][p] = multiply_add(v, grad[p], sum[i][p]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) std::memcpy(acc + i * acc_step + p * L, &sum[i][p], sizeof(V));
}

template <class T, int P>
void outer_rows(const T* x, int64_t c_in, const T* g, int64_t g_step, int64_t n, T* acc, int64_t acc_step) {
  int64_t i = 0;
  for (; i + 6 <= c_in; i += 6) outer_tile<T, 6, P>(x + i, c_in, g, g_step, n, acc + i * acc_step, acc_step);
  for (; i + 4 <= c_in; i += 4) outer_tile<T, 4, P>(x + i, c_in, g, g_step, n, acc + i * acc_step, acc_step);
  for (; i + 2 <= c_in; i += 2) outer_tile<T, 2, P>(x + i, c_in, g, g_step, n, acc + i * acc_step, acc_step);
  for (; i < c_in; ++i) outer_tile<T, 1, P>(x + i, c_in, g, g_step, n, acc + i * acc_step, acc_step);
}

// One task per kernel offset: its sums run over the outputs in order, so no partial results need adding.
template <class T>
void sparse_conv_weight(SparseConvWeightArgs<T>& a) {
  constexpr int L = Vector<T>::lanes;
  a.bad = !table_fits(a.table, a.offsets * a.out_rows, a.in_rows);
  if (a.bad) return;
  const int64_t width = (a.c_out + L - 1) / L * L;
  const int64_t block = block_rows<T>(std::max(width, a.c_in));
  parallel_tasks(a.parallel, a.offsets, [&](int64_t k) {
    Scratch local;
    T* acc = local.zeros<T>(a.c_in * width);
    T* gathered = local.take<T>(block * a.c_in);
    T* g = local.zeros<T>(block * width);
    int32_t* place = local.take<int32_t>(block + kLanes);
    int32_t* input = local.take<int32_t>(block + kLanes);
    for (int64_t begin = 0; begin < a.out_rows; begin += block) {
      const int64_t rows = begin + block < a.out_rows ? block : a.out_rows - begin;
      const int64_t n = present_rows(a.table + k * a.out_rows + begin, rows, place, input);
      if (n == 0) continue;
      const T* x = side_by_side(a.features, a.c_in, input, n, gathered);
      if (width == a.c_out) gather(a.grad + begin * width, width, place, n, g);
      for (int64_t i = 0; i < n && width != a.c_out; ++i)
        std::memcpy(g + i * width, a.grad + (begin + place[i]) * a.c_out, static_cast<size_t>(a.c_out) * sizeof(T));
      for (int64_t first = 0; first < width;) {
        const int64_t left = (width - first) / L;
        if (kMaxPanels == 4 && left >= 4) {
          outer_rows<T, kMaxPanels>(x, a.c_in, g + first, width, n, acc + first, width);
          first += 4 * L;
        } else if (left >= 2) {
          outer_rows<T, 2>(x, a.c_in, g + first, width, n, acc + first, width);
          first += 2 * L;
        } else {
          outer_rows<T, 1>(x, a.c_in, g + first, width, n, acc + first, width);
          first += L;
        }
      }
    }
    for (int64_t o = 0; o < a.c_out; ++o)
      for (int64_t c = 0; c < a.c_in; ++c) a.grad_weight[(o * a.offsets + k) * a.c_in + c] = acc[c * width + o];
  });
}

template <class T>
void sparse_max_pool(SparseMaxPoolArgs<T>& a) {
  a.bad = !table_fits(a.table, a.offsets * a.out_rows, a.in_rows);
  if (a.bad) return;
  parallel_ranges(a.parallel, a.out_rows, kMostRows, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      T* out = a.out + o * a.channels;
      int32_t* arg = a.arg + o * a.channels;
      for (int64_t c = 0; c < a.channels; ++c) {
        out[c] = T(0);
        arg[c] = -1;
      }
      for (int64_t k = 0; k < a.offsets; ++k) {
        const int32_t row = a.table[k * a.out_rows + o];
        if (row < 0) continue;
        const T* x = a.features + row * a.channels;
        for (int64_t c = 0; c < a.channels; ++c) {
          if (arg[c] >= 0 && !(x[c] > out[c])) continue;
          out[c] = x[c];
          arg[c] = row;
        }
      }
    }
  });
}

}  // namespace

void sparse_conv_f32(SparseConvArgs<float>& a) { sparse_conv(a); }
void sparse_conv_f64(SparseConvArgs<double>& a) { sparse_conv(a); }
void sparse_conv_weight_f32(SparseConvWeightArgs<float>& a) { sparse_conv_weight(a); }
void sparse_conv_weight_f64(SparseConvWeightArgs<double>& a) { sparse_conv_weight(a); }
void sparse_max_pool_f32(SparseMaxPoolArgs<float>& a) { sparse_max_pool(a); }
void sparse_max_pool_f64(SparseMaxPoolArgs<double>& a) { sparse_max_pool(a); }

TENFOLD_END
