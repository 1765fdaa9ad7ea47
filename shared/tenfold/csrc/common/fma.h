// Multiply and add in one rounding where the instruction set has it: for sums that are not bound to bits across levels
// (convolutions and filters). Everything else is compiled without contraction.
#pragma once
#include "common/vec.h"

TENFOLD_BEGIN

static inline vfloat multiply_add(vfloat a, vfloat b, vfloat c) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
static inline vdouble multiply_add(vdouble a, vdouble b, vdouble c) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
  return (vdouble)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// x in all lanes. `V{} + x` would be one more addition: 0 + -0 is not -0.
static inline vfloat splat(float x) {
#if defined(__AVX512F__)
  return (vfloat)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (vfloat)_mm256_set1_ps(x);
#else
  return vfloat{x, x, x, x};
#endif
}
static inline vdouble splat(double x) {
#if defined(__AVX512F__)
  return (vdouble)_mm512_set1_pd(x);
#elif defined(__AVX2__)
  return (vdouble)_mm256_set1_pd(x);
#else
  return vdouble{x, x};
#endif
}

TENFOLD_END
