// Lanes of doubles for arithmetic that is written once, as a template on V: plain double (CUDA, portable
// builds, tails) or a native vector of 2, 4 or 8. Every function means the same for each lane of each V, and
// nothing contracts a multiply and an add, so all widths give the same bits.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/isa.h"

#if defined(__SSE4_1__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

TENFOLD_BEGIN

// As the x86 instructions: the second operand where the comparison is false, so a NaN in a gives b.
TENFOLD_HD static inline double min_of(double a, double b) { return a < b ? a : b; }
TENFOLD_HD static inline double max_of(double a, double b) { return a > b ? a : b; }
TENFOLD_HD static inline bool less(double a, double b) { return a < b; }
TENFOLD_HD static inline bool less_equal(double a, double b) { return a <= b; }
TENFOLD_HD static inline bool equal(double a, double b) { return a == b; }
TENFOLD_HD static inline double select(bool mask, double yes, double no) { return mask ? yes : no; }
TENFOLD_HD static inline bool any(bool mask) { return mask; }
TENFOLD_HD static inline bool both(bool a, bool b) { return a && b; }
TENFOLD_HD static inline bool either(bool a, bool b) { return a || b; }
TENFOLD_HD static inline uint32_t lane_bits(bool mask) { return mask ? 1u : 0u; }
TENFOLD_HD static inline double rounded(double v, float) { return static_cast<double>(static_cast<float>(v)); }
TENFOLD_HD static inline double rounded(double v, double) { return v; }

template <class V>
struct MaskOf;
template <>
struct MaskOf<double> {
  using type = bool;
};

#if defined(__SSE4_1__) && !defined(__CUDACC__)
#if defined(__AVX512F__)
constexpr int kWide = 8;
typedef double vdouble __attribute__((vector_size(64)));
typedef __mmask8 dmask;
// Masked forms of full width: the plain ones name an undefined source, which compilers warn about.
static inline vdouble min_of(vdouble a, vdouble b) {
  return (vdouble)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b);
}
static inline vdouble max_of(vdouble a, vdouble b) {
  return (vdouble)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
}
static inline dmask less(vdouble a, vdouble b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ); }
static inline dmask less_equal(vdouble a, vdouble b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ);
}
static inline dmask equal(vdouble a, vdouble b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
static inline vdouble select(dmask m, vdouble yes, vdouble no) {
  return (vdouble)_mm512_mask_blend_pd(m, (__m512d)no, (__m512d)yes);
}
static inline dmask both(dmask a, dmask b) { return static_cast<dmask>(a & b); }
static inline dmask either(dmask a, dmask b) { return static_cast<dmask>(a | b); }
static inline uint32_t lane_bits(dmask m) { return m; }
static inline dmask lane_mask_of(uint32_t bits) { return static_cast<dmask>(bits); }
static inline vdouble rounded(vdouble v, float) {
  return (vdouble)_mm512_maskz_cvtps_pd(0xff, _mm512_maskz_cvtpd_ps(0xff, (__m512d)v));
}
static inline vdouble gather(const double* base, const int32_t* index) {
  return vdouble{base[index[0]], base[index[1]], base[index[2]], base[index[3]],
                 base[index[4]], base[index[5]], base[index[6]], base[index[7]]};
}
#elif defined(__AVX2__)
constexpr int kWide = 4;
typedef double vdouble __attribute__((vector_size(32)));
typedef int64_t dmask __attribute__((vector_size(32)));
static inline vdouble min_of(vdouble a, vdouble b) { return (vdouble)_mm256_min_pd((__m256d)a, (__m256d)b); }
static inline vdouble max_of(vdouble a, vdouble b) { return (vdouble)_mm256_max_pd((__m256d)a, (__m256d)b); }
static inline vdouble select(dmask m, vdouble yes, vdouble no) {
  return (vdouble)_mm256_blendv_pd((__m256d)no, (__m256d)yes, (__m256d)m);
}
static inline uint32_t lane_bits(dmask m) { return static_cast<uint32_t>(_mm256_movemask_pd((__m256d)m)); }
static inline vdouble rounded(vdouble v, float) {
  return (vdouble)_mm256_cvtps_pd(_mm256_cvtpd_ps((__m256d)v));
}
static inline vdouble gather(const double* base, const int32_t* index) {
  return vdouble{base[index[0]], base[index[1]], base[index[2]], base[index[3]]};
}
#else
constexpr int kWide = 2;
typedef double vdouble __attribute__((vector_size(16)));
typedef int64_t dmask __attribute__((vector_size(16)));
static inline vdouble min_of(vdouble a, vdouble b) { return (vdouble)_mm_min_pd((__m128d)a, (__m128d)b); }
static inline vdouble max_of(vdouble a, vdouble b) { return (vdouble)_mm_max_pd((__m128d)a, (__m128d)b); }
static inline vdouble select(dmask m, vdouble yes, vdouble no) {
  return (vdouble)_mm_blendv_pd((__m128d)no, (__m128d)yes, (__m128d)m);
}
static inline uint32_t lane_bits(dmask m) { return static_cast<uint32_t>(_mm_movemask_pd((__m128d)m)); }
static inline vdouble rounded(vdouble v, float) { return (vdouble)_mm_cvtps_pd(_mm_cvtpd_ps((__m128d)v)); }
static inline vdouble gather(const double* base, const int32_t* index) {
  return vdouble{base[index[0]], base[index[1]]};
}
#endif

#if !defined(__AVX512F__)
static inline dmask less(vdouble a, vdouble b) { return (dmask)(a < b); }
static inline dmask less_equal(vdouble a, vdouble b) { return (dmask)(a <= b); }
static inline dmask equal(vdouble a, vdouble b) { return (dmask)(a == b); }
static inline dmask both(dmask a, dmask b) { return a & b; }
static inline dmask either(dmask a, dmask b) { return a | b; }
static inline dmask lane_mask_of(uint32_t bits) {
  dmask m{};
  for (int i = 0; i < kWide; ++i) m[i] = bits >> i & 1 ? -1 : 0;
  return m;
}
#endif
static inline bool any(dmask m) { return lane_bits(m) != 0; }
static inline vdouble rounded(vdouble v, double) { return v; }
static inline vdouble load_lanes(const double* p) {
  vdouble v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void store_lanes(double* p, vdouble v) { std::memcpy(p, &v, sizeof v); }

template <>
struct MaskOf<vdouble> {
  using type = dmask;
};
#else
constexpr int kWide = 1;
typedef double vdouble;
typedef bool dmask;
static inline dmask lane_mask_of(uint32_t bits) { return bits & 1; }
static inline vdouble load_lanes(const double* p) { return *p; }
static inline void store_lanes(double* p, vdouble v) { *p = v; }
static inline vdouble gather(const double* base, const int32_t* index) { return base[index[0]]; }
#endif

template <class V>
using mask_of = typename MaskOf<V>::type;

template <class V>
TENFOLD_HD inline V splat(double x) {
  return V{} + x;
}

// Bits of the first n of kWide lanes; n >= 1.
static inline uint32_t first_bits(int64_t n) { return n >= kWide ? (1u << kWide) - 1 : (1u << n) - 1; }

TENFOLD_END
