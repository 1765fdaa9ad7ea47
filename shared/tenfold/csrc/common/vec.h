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
// A bare broadcast: x - 0 is x, whereas x + 0 would be computed for the sake of -0.
static inline vfloat vset(float x) { return x - vfloat{}; }
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
static inline vfloat vmin(vfloat a, vfloat b) { return (vfloat)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
static inline vfloat vmax(vfloat a, vfloat b) { return (vfloat)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
static inline vfloat vgather(const float* base, vint index) {
  return (vfloat)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, (__m512i)index, base, 4);
}
static inline vint vgather(const int32_t* base, vint index) {
  return (vint)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, (__m512i)index, base, 4);
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
static inline vdouble vset(double x) { return x - vdouble{}; }
#if defined(__AVX512F__)
static inline vdouble vmin(vdouble a, vdouble b) { return (vdouble)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b); }
static inline vdouble vmax(vdouble a, vdouble b) { return (vdouble)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b); }
static inline lane_mask vlt(vdouble a, vdouble b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ); }
static inline lane_mask vge(vdouble a, vdouble b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GE_OQ); }
#elif defined(__AVX2__)
static inline vdouble vmin(vdouble a, vdouble b) { return (vdouble)_mm256_min_pd((__m256d)a, (__m256d)b); }
static inline vdouble vmax(vdouble a, vdouble b) { return (vdouble)_mm256_max_pd((__m256d)a, (__m256d)b); }
static inline lane_mask vlt(vdouble a, vdouble b) { return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_LT_OQ)); }
static inline lane_mask vge(vdouble a, vdouble b) { return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_GE_OQ)); }
#else
static inline vdouble vmin(vdouble a, vdouble b) { return a < b ? a : b; }
static inline vdouble vmax(vdouble a, vdouble b) { return a > b ? a : b; }
static inline lane_mask vlt(vdouble a, vdouble b) {
  const vlong m = a < b;
  return static_cast<lane_mask>((m[0] & 1) | (m[1] & 2));
}
static inline lane_mask vge(vdouble a, vdouble b) {
  const vlong m = a >= b;
  return static_cast<lane_mask>((m[0] & 1) | (m[1] & 2));
}
#endif
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
#elif defined(__AVX2__)
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
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

// The lanes of low and high side by side, as 64-bit words of which `high` is the upper half: blocks of four lanes give
// two words to the first result and two to the second (lane_of_word).
static inline void vzip(vint low, vint high, vlong& first, vlong& second) {
#if defined(__AVX512F__)
  first = (vlong)_mm512_maskz_unpacklo_epi32(0xffff, (__m512i)low, (__m512i)high);
  second = (vlong)_mm512_maskz_unpackhi_epi32(0xffff, (__m512i)low, (__m512i)high);
#elif defined(__AVX2__)
  first = (vlong)_mm256_unpacklo_epi32((__m256i)low, (__m256i)high);
  second = (vlong)_mm256_unpackhi_epi32((__m256i)low, (__m256i)high);
#elif defined(__SSE4_1__)
  first = (vlong)_mm_unpacklo_epi32((__m128i)low, (__m128i)high);
  second = (vlong)_mm_unpackhi_epi32((__m128i)low, (__m128i)high);
#else
  for (int i = 0; i < 2; ++i) {
    first[i] = static_cast<int64_t>(high[i]) << 32 | static_cast<uint32_t>(low[i]);
    second[i] = static_cast<int64_t>(high[i + 2]) << 32 | static_cast<uint32_t>(low[i + 2]);
  }
#endif
}
constexpr int lane_of_word(int result, int word) { return word / 2 * 4 + result * 2 + word % 2; }

TENFOLD_END
