// Stores past the caches, for outputs that have left them before anybody reads them.
#pragma once
#include "common/vec.h"

TENFOLD_BEGIN

// A store past the caches, to an address aligned to the vector. Whoever made such stores calls stream_end before another
// thread may read.
static inline void vstream(void* p, vint v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE4_1__)
  _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)v);
#else
  std::memcpy(p, &v, sizeof v);
#endif
}
static inline void stream_end() {
#if defined(__SSE4_1__)
  _mm_sfence();
#endif
}

TENFOLD_END
