// Index tables on the device: validation, and the entries that name each row.
#pragma once
#include "common/device_check.h"
#include "common/device_segments.h"
#include "common/table.h"

namespace tenfold::device {

__device__ __forceinline__ int64_t table_at(const IndexTable& t, int64_t entry) {
  return t.idx32 != nullptr ? t.idx32[entry] : t.idx64[entry];
}

struct BadEntry {
  IndexTable table;
  const int32_t* count;
  __device__ bool operator()(int64_t entry) const {
    if (count != nullptr && count[entry / table.k] <= 0) return false;
    const int64_t row = table_at(table, entry);
    return row < -1 || row >= table.n;
  }
};

// True where the table may be used. Nobody looks at the entries of a group with count <= 0; `count` may be null.
inline bool check_table(const Stream& stream, IndexTable& t, const int32_t* count) {
  t.bad_entry = t.validate ? first_bad(stream, t.entries(), BadEntry{t, count}) : -1;
  return t.bad_entry < 0;
}

// Row of the flattened (elements * n) rows that each entry names; elements * n where it names none.
struct EntryKey {
  IndexTable table;
  uint32_t* key;
  __device__ void operator()(int64_t entry) const {
    const int64_t row = table_at(table, entry);
    const int64_t element = entry / (table.groups * table.k);
    key[entry] = static_cast<uint32_t>(row >= 0 && row < table.n ? element * table.n + row : table.elements * table.n);
  }
};

// The entries of the table that name each row, ascending.
inline Segments transpose(const Stream& stream, const IndexTable& t) {
  auto* key = stream.scratch<uint32_t>(t.entries());
  each("entry_key", stream, t.entries(), EntryKey{t, key});
  return make_segments(stream, key, t.entries(), t.elements * t.n);
}

}  // namespace tenfold::device
