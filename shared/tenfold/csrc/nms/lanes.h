// One vector interface for float and double boxes: a double vector has half the lanes of a float vector.
#pragma once
#include "common/vec.h"

TENFOLD_BEGIN
namespace lanes {

typedef double vdouble __attribute__((vector_size(kLanes * 4)));

template <class T>
struct Vector;
template <>
struct Vector<float> {
  using type = vfloat;
};
template <>
struct Vector<double> {
  using type = vdouble;
};
template <class T>
using vec = typename Vector<T>::type;
template <class T>
constexpr int kCount = kLanes * 4 / static_cast<int>(sizeof(T));

template <class T>
static inline vec<T> load(const T* p) {
  vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
static inline void store(T* p, vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
static inline vec<T> set(T x) {
  return vec<T>{} + x;
}
static inline vfloat min(vfloat a, vfloat b) { return vmin(a, b); }
static inline vfloat max(vfloat a, vfloat b) { return vmax(a, b); }
static inline lane_mask greater(vfloat a, vfloat b) { return vgt(a, b); }

#if defined(__AVX512F__)
static inline vdouble min(vdouble a, vdouble b) { return (vdouble)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b); }
static inline vdouble max(vdouble a, vdouble b) { return (vdouble)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b); }
static inline lane_mask greater(vdouble a, vdouble b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
}
#elif defined(__AVX2__)
static inline vdouble min(vdouble a, vdouble b) { return (vdouble)_mm256_min_pd((__m256d)a, (__m256d)b); }
static inline vdouble max(vdouble a, vdouble b) { return (vdouble)_mm256_max_pd((__m256d)a, (__m256d)b); }
static inline lane_mask greater(vdouble a, vdouble b) {
  return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_GT_OQ));
}
#elif defined(__SSE4_1__)
static inline vdouble min(vdouble a, vdouble b) { return (vdouble)_mm_min_pd((__m128d)a, (__m128d)b); }
static inline vdouble max(vdouble a, vdouble b) { return (vdouble)_mm_max_pd((__m128d)a, (__m128d)b); }
static inline lane_mask greater(vdouble a, vdouble b) {
  return _mm_movemask_pd(_mm_cmpgt_pd((__m128d)a, (__m128d)b));
}
#else
static inline vdouble min(vdouble a, vdouble b) { return a < b ? a : b; }
static inline vdouble max(vdouble a, vdouble b) { return a > b ? a : b; }
static inline lane_mask greater(vdouble a, vdouble b) { return (a[0] > b[0] ? 1 : 0) | (a[1] > b[1] ? 2 : 0); }
#endif

}  // namespace lanes
TENFOLD_END
