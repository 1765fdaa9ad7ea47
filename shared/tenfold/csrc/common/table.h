// A table of rows by index, int32 or int64, for one batch element after the other.
#pragma once
#include <cstdint>

namespace tenfold {

// `elements` times `groups` lists of `k` rows; every element has its own `n` rows, which indices count from.
// An index outside [0, n) names no row.
struct IndexTable {
  const int32_t* idx32;
  const int64_t* idx64;
  int64_t elements;
  int64_t groups;  // per element
  int64_t k;
  int64_t n;  // rows per element
  bool validate;      // an index outside [-1, n) stops the kernel, in a group that has members
  int64_t bad_entry;  // out: the first such entry of the flattened table, or -1

  int64_t entries() const { return elements * groups * k; }
  int64_t at(int64_t entry) const { return idx32 != nullptr ? idx32[entry] : idx64[entry]; }
};

}  // namespace tenfold
