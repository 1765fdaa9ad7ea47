// Register tiles of the sparse convolution. A tile multiplies R gathered rows by P vectors of output channels.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/fma.h"
#include "common/vec.h"

TENFOLD_BEGIN

template <class T>
struct Vector;

template <>
struct Vector<float> {
  typedef vfloat type;
  static constexpr int lanes = kLanes;
};

template <>
struct Vector<double> {
  typedef vdouble type;
  static constexpr int lanes = kLanes / 2;
};

// Rows of a full tile for P vectors of channels: as many accumulators as registers allow.
#if defined(__AVX512F__)
template <int P>
constexpr int tile_rows() {
  return P == 1 ? 16 : P == 2 ? 12 : 6;
}
constexpr int kMaxPanels = 4;
#else
template <int P>
constexpr int tile_rows() {
  return P == 1 ? 8 : 6;
}
constexpr int kMaxPanels = 2;
#endif

// acc[r] += a[r][0..depth) * w, accumulators being rows of `out` named by `place`.
// a: gathered rows, `depth` apart; w: (depth, P vectors) packed; out: rows `out_step` apart.
// DEPTH > 0 fixes depth at compile time, which turns row addresses into displacements.
template <class T, int R, int P, int DEPTH>
static inline void multiply_tile(const T* a, int64_t depth, const T* w, T* out, int64_t out_step,
                                 const int32_t* place) {
  typedef typename Vector<T>::type V;
  constexpr int L = Vector<T>::lanes;
  const int64_t d = DEPTH > 0 ? DEPTH : depth;
  // Every loop over the accumulators is unrolled: one that is not makes them live in memory.
  V acc[R][P];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) std::memcpy(&acc[r][p], out + place[r] * out_step + p * L, sizeof(V));
  for (int64_t c = 0; c < d; ++c) {
    V weight[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) std::memcpy(&weight[p], w + (c * P + p) * L, sizeof(V));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V x = splat(a[r * d + c]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[r][p] = multiply_add(x, weight[p], acc[r][p]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) std::memcpy(out + place[r] * out_step + p * L, &acc[r][p], sizeof(V));
}

// The last n < R rows. At most one such tile for a block and an offset, so it is not compiled for fixed depths.
template <class T, int P, int R, int LEFT = R - 1>
static inline void multiply_rest(const T* a, int64_t n, int64_t depth, const T* w, T* out, int64_t out_step,
                                 const int32_t* place) {
  if constexpr (LEFT > 0) {
    if (n == LEFT) return multiply_tile<T, LEFT, P, 0>(a, depth, w, out, out_step, place);
    multiply_rest<T, P, R, LEFT - 1>(a, n, depth, w, out, out_step, place);
  }
}

// All n gathered rows: full tiles of R rows, then one tile with what is left.
template <class T, int P, int DEPTH, int R>
static void multiply_rows(const T* a, int64_t n, int64_t depth, const T* w, T* out, int64_t out_step,
                          const int32_t* place) {
  for (; n >= R; n -= R, a += R * depth, place += R) multiply_tile<T, R, P, DEPTH>(a, depth, w, out, out_step, place);
  multiply_rest<T, P, R>(a, n, depth, w, out, out_step, place);
}

TENFOLD_END
