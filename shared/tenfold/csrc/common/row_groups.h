// What kernels on groups of rows share.
#pragma once
#include <cstdint>

#include "common/isa.h"

TENFOLD_BEGIN

constexpr int64_t kTaskBytes = int64_t{1} << 20;  // read or written by one task

// Groups per task for groups of so many bytes.
static inline int64_t piece_of(int64_t bytes) { return 1 + kTaskBytes / (bytes + 64); }

// NaN wins over every number, and the first NaN over later ones; of equal values the first stays.
template <class T>
static inline bool better(T candidate, T best) {
  return ((candidate > best) | (candidate != candidate)) & (best == best);
}

TENFOLD_END
