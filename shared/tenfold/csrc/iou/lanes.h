// Lanes of doubles for arithmetic that is written once, as a template on V: plain double (devices, tails) or the native
// vector of 2, 4 or 8 of common/vec.h. Every function means the same for each lane of each V, and nothing contracts a
// multiply and an add, so all widths give the same bits.
#pragma once
#include <cstdint>

#include "common/isa.h"

#ifndef TENFOLD_DEVICE
#include "common/vec.h"
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


#ifndef TENFOLD_DEVICE
constexpr int kWide = kWidth<double>;
static inline vdouble min_of(vdouble a, vdouble b) { return vmin(a, b); }
static inline vdouble max_of(vdouble a, vdouble b) { return vmax(a, b); }
static inline vdouble load_lanes(const double* p) { return vload(p); }
static inline void store_lanes(double* p, vdouble v) { vstore(p, v); }

#if defined(__AVX512F__)
typedef __mmask8 dmask;
// Masked forms of full width: the plain ones name an undefined source, which compilers warn about.
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
#else
typedef vlong dmask;
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
#if defined(__AVX2__)
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
#if defined(__SSE4_1__)
static inline vdouble select(dmask m, vdouble yes, vdouble no) {
  return (vdouble)_mm_blendv_pd((__m128d)no, (__m128d)yes, (__m128d)m);
}
static inline uint32_t lane_bits(dmask m) { return static_cast<uint32_t>(_mm_movemask_pd((__m128d)m)); }
static inline vdouble rounded(vdouble v, float) { return (vdouble)_mm_cvtps_pd(_mm_cvtpd_ps((__m128d)v)); }
#else
static inline vdouble select(dmask m, vdouble yes, vdouble no) { return m ? yes : no; }
static inline uint32_t lane_bits(dmask m) { return static_cast<uint32_t>((m[0] & 1) | (m[1] & 2)); }
static inline vdouble rounded(vdouble v, float) { return vdouble{rounded(v[0], 0.0f), rounded(v[1], 0.0f)}; }
#endif
static inline vdouble gather(const double* base, const int32_t* index) {
  return vdouble{base[index[0]], base[index[1]]};
}
#endif
#endif
static inline bool any(dmask m) { return lane_bits(m) != 0; }
static inline vdouble rounded(vdouble v, double) { return v; }

template <>
struct MaskOf<vdouble> {
  using type = dmask;
};

// Bits of the first n of kWide lanes; n >= 1.
static inline uint32_t first_bits(int64_t n) { return n >= kWide ? (1u << kWide) - 1 : (1u << n) - 1; }
#endif

template <class V>
using mask_of = typename MaskOf<V>::type;

template <class V>
TENFOLD_HD inline V splat(double x) {
  return V{} + x;
}

TENFOLD_END
