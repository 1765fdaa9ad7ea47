// Native-width vectors of float and int32: 16 lanes with AVX-512, 8 with AVX2, 4 elsewhere. Only what the
// kernels use. Comparisons return a bit mask (bit i = lane i) so that hits can be counted and compressed.
// No operation contracts a multiply and an add: kernels are built with -ffp-contract=off.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/isa.h"

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE4_1__)
#include <immintrin.h>
#endif

TENFOLD_BEGIN

using lane_mask = uint32_t;

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr lane_mask kAllLanes = (lane_mask{1} << kLanes) - 1;

typedef float vfloat __attribute__((vector_size(kLanes * 4)));
typedef int32_t vint __attribute__((vector_size(kLanes * 4)));

static inline vfloat vload(const float* p) { vfloat v; std::memcpy(&v, p, sizeof v); return v; }
static inline vint vload(const int32_t* p) { vint v; std::memcpy(&v, p, sizeof v); return v; }
static inline void vstore(float* p, vfloat v) { std::memcpy(p, &v, sizeof v); }
static inline void vstore(int32_t* p, vint v) { std::memcpy(p, &v, sizeof v); }
static inline vfloat vset(float x) { return vfloat{} + x; }
static inline vint vset(int32_t x) { return vint{} + x; }
static inline vint viota() {
  vint v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}
static inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
static inline void prefetch_write(const void* p) { __builtin_prefetch(p, 1, 3); }

// Bits of the first n lanes; n may exceed the lane count.
static inline lane_mask first_lanes(int64_t n) {
  return n >= kLanes ? kAllLanes : (lane_mask{1} << n) - 1;
}

#if defined(__AVX512F__)
static inline lane_mask vlt(vfloat a, vfloat b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
static inline lane_mask vle(vfloat a, vfloat b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
static inline lane_mask vgt(vfloat a, vfloat b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
static inline lane_mask vge(vfloat a, vfloat b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ); }
static inline lane_mask veq(vint a, vint b) { return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b); }
static inline lane_mask vlt(vint a, vint b) { return _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b); }
static inline vfloat vmin(vfloat a, vfloat b) { return (vfloat)_mm512_min_ps((__m512)a, (__m512)b); }
static inline vfloat vmax(vfloat a, vfloat b) { return (vfloat)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vfloat vgather(const float* base, vint index) {
  return (vfloat)_mm512_i32gather_ps((__m512i)index, base, 4);
}
static inline vint vgather(const int32_t* base, vint index) {
  return (vint)_mm512_i32gather_epi32((__m512i)index, base, 4);
}
static inline vint vadd_where(vint v, int32_t amount, lane_mask m) {
  return (vint)_mm512_mask_add_epi32((__m512i)v, static_cast<__mmask16>(m), (__m512i)v, _mm512_set1_epi32(amount));
}
// Writes the lanes named by the mask to consecutive places and returns their number.
static inline int vcompress(int32_t* out, vint v, lane_mask m) {
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(static_cast<__mmask16>(m), (__m512i)v));
  return __builtin_popcount(m);
}
#elif defined(__AVX2__)
namespace detail {
struct CompressTable {
  int32_t lane[256][8];
  constexpr CompressTable() : lane() {
    for (int m = 0; m < 256; ++m) {
      int n = 0;
      for (int i = 0; i < 8; ++i)
        if (m >> i & 1) lane[m][n++] = i;
      for (; n < 8; ++n) lane[m][n] = 7;
    }
  }
};
static constexpr CompressTable kCompress{};
}  // namespace detail
static inline lane_mask vlt(vfloat a, vfloat b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ)); }
static inline lane_mask vle(vfloat a, vfloat b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LE_OQ)); }
static inline lane_mask vgt(vfloat a, vfloat b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)); }
static inline lane_mask vge(vfloat a, vfloat b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ)); }
static inline lane_mask veq(vint a, vint b) { return _mm256_movemask_ps((__m256)(a == b)); }
static inline lane_mask vlt(vint a, vint b) { return _mm256_movemask_ps((__m256)(a < b)); }
static inline vfloat vmin(vfloat a, vfloat b) { return (vfloat)_mm256_min_ps((__m256)a, (__m256)b); }
static inline vfloat vmax(vfloat a, vfloat b) { return (vfloat)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vfloat vgather(const float* base, vint index) {
  return (vfloat)_mm256_i32gather_ps(base, (__m256i)index, 4);
}
static inline vint vgather(const int32_t* base, vint index) {
  return (vint)_mm256_i32gather_epi32(base, (__m256i)index, 4);
}
static inline vint vadd_where(vint v, int32_t amount, lane_mask m) {
  for (int i = 0; i < kLanes; ++i) v[i] += m >> i & 1 ? amount : 0;
  return v;
}
static inline int vcompress(int32_t* out, vint v, lane_mask m) {
  const __m256i order = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(detail::kCompress.lane[m]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32((__m256i)v, order));
  return __builtin_popcount(m);
}
#else
namespace detail {
static inline lane_mask bits(vint m) {
#if defined(__SSE4_1__)
  return _mm_movemask_ps((__m128)m);
#else
  return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8);
#endif
}
}  // namespace detail
static inline lane_mask vlt(vfloat a, vfloat b) { return detail::bits((vint)(a < b)); }
static inline lane_mask vle(vfloat a, vfloat b) { return detail::bits((vint)(a <= b)); }
static inline lane_mask vgt(vfloat a, vfloat b) { return detail::bits((vint)(a > b)); }
static inline lane_mask vge(vfloat a, vfloat b) { return detail::bits((vint)(a >= b)); }
static inline lane_mask veq(vint a, vint b) { return detail::bits(a == b); }
static inline lane_mask vlt(vint a, vint b) { return detail::bits(a < b); }
// As the x86 instruction: the second operand where the comparison is false, so NaN in a gives b.
static inline vfloat vmin(vfloat a, vfloat b) { return a < b ? a : b; }
static inline vfloat vmax(vfloat a, vfloat b) { return a > b ? a : b; }
static inline vfloat vgather(const float* base, vint index) {
  vfloat v;
  for (int i = 0; i < kLanes; ++i) v[i] = base[index[i]];
  return v;
}
static inline vint vgather(const int32_t* base, vint index) {
  vint v;
  for (int i = 0; i < kLanes; ++i) v[i] = base[index[i]];
  return v;
}
static inline vint vadd_where(vint v, int32_t amount, lane_mask m) {
  for (int i = 0; i < kLanes; ++i) v[i] += m >> i & 1 ? amount : 0;
  return v;
}
static inline int vcompress(int32_t* out, vint v, lane_mask m) {
  int n = 0;
  for (int i = 0; i < kLanes; ++i) {
    out[n] = v[i];
    n += m >> i & 1;
  }
  return n;
}
#endif

// ---- the same code for float and double ------------------------------------------------------------------

typedef double vdouble __attribute__((vector_size(kLanes * 4)));
typedef int64_t vlong __attribute__((vector_size(kLanes * 4)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = vfloat;
  using index = vint;
};
template <>
struct VectorOf<double> {
  using type = vdouble;
  using index = vlong;
};
// A register full of T, and one of integers as wide as T, as comparisons give them.
template <class T>
using vec = typename VectorOf<T>::type;
template <class T>
using vec_index = typename VectorOf<T>::index;
template <class T>
constexpr int kWidth = kLanes * 4 / static_cast<int>(sizeof(T));

static inline vdouble vload(const double* p) { vdouble v; std::memcpy(&v, p, sizeof v); return v; }
static inline void vstore(double* p, vdouble v) { std::memcpy(p, &v, sizeof v); }
static inline vdouble vset(double x) { return vdouble{} + x; }
static inline vdouble vmin(vdouble a, vdouble b) { return a < b ? a : b; }
static inline vdouble vmax(vdouble a, vdouble b) { return a > b ? a : b; }
static inline lane_mask vbits(vlong m) {
  lane_mask bits = 0;
  for (int i = 0; i < kWidth<double>; ++i) bits |= static_cast<lane_mask>(m[i] & 1) << i;
  return bits;
}
static inline lane_mask vlt(vdouble a, vdouble b) { return vbits(a < b); }
static inline lane_mask vge(vdouble a, vdouble b) { return vbits(a >= b); }
// 0, 1, 2 ... in the integers as wide as T.
template <class T>
static inline vec_index<T> viota_of() {
  vec_index<T> v;
  for (int i = 0; i < kWidth<T>; ++i) v[i] = i;
  return v;
}
// Largest lane.
static inline float vtop(vfloat v) {
#if defined(__AVX512F__)
  // The zero-masked form: GCC 12 warns about the plain one's undefined pass-through operand.
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256((__m512)v), _mm512_maskz_extractf32x8_ps(0xff, (__m512)v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
  float top = v[0];
  for (int i = 1; i < kLanes; ++i) top = v[i] > top ? v[i] : top;
  return top;
#endif
}
static inline double vtop(vdouble v) {
  double top = v[0];
  for (int i = 1; i < kWidth<double>; ++i) top = v[i] > top ? v[i] : top;
  return top;
}

TENFOLD_END
