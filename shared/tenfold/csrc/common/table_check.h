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

// The first entry of [from, to) outside [-1, n), or -1.
static inline int64_t first_bad_entry(const IndexTable& t, int64_t from, int64_t to) {
  const int64_t bad = t.idx32 != nullptr ? first_bad_entry(t.idx32 + from, to - from, t.n)
                                         : first_bad_entry(t.idx64 + from, to - from, t.n);
  return bad < 0 ? -1 : from + bad;
}

// True where the table may be used. Nobody looks at the entries of a group with count <= 0; `count` may be null.
static inline bool check_table(IndexTable& t, const int32_t* count = nullptr) {
  t.bad_entry = -1;
  if (!t.validate) return true;
  t.bad_entry = first_bad_entry(t, 0, t.entries());
  if (t.bad_entry < 0 || count == nullptr) return t.bad_entry < 0;
  const int64_t groups = t.elements * t.groups;
  int64_t g = t.bad_entry / t.k;
  for (t.bad_entry = -1; t.bad_entry < 0 && g < groups; ++g)
    if (count[g] > 0) t.bad_entry = first_bad_entry(t, g * t.k, (g + 1) * t.k);
  return t.bad_entry < 0;
}

TENFOLD_END
