// Validation of an index table, in one vector pass.
#pragma once
#include "common/isa.h"
#include "common/table.h"

TENFOLD_BEGIN

template <class Index>
static inline int64_t first_bad_entry(const Index* idx, int64_t count, int64_t n) {
  constexpr int64_t kPiece = 1024;
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t end = begin + kPiece < count ? begin + kPiece : count;
    int bad = 0;
    for (int64_t i = begin; i < end; ++i) bad |= (idx[i] < -1) | (static_cast<int64_t>(idx[i]) >= n);
    for (int64_t i = begin; bad != 0 && i < end; ++i)
      if (idx[i] < -1 || static_cast<int64_t>(idx[i]) >= n) return i;
  }
  return -1;
}

// True where the table may be used.
static inline bool check_table(IndexTable& t) {
  t.bad_entry = -1;
  if (!t.validate) return true;
  t.bad_entry = t.idx32 != nullptr ? first_bad_entry(t.idx32, t.entries(), t.n)
                                   : first_bad_entry(t.idx64, t.entries(), t.n);
  return t.bad_entry < 0;
}

TENFOLD_END
