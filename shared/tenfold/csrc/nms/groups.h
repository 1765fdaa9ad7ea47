// Candidates grouped by exact (batch, label), keeping their descending order inside each group.
#pragma once
#include "common/arena.h"
#include "common/radix.h"
#include "nms/nms.h"

TENFOLD_BEGIN

// Positions in [0, count), as a bit set.
class PositionSet {
 public:
  PositionSet(Scratch& scratch, int64_t count) : bits_(scratch.zeros<uint64_t>(count / 64 + 1)) {}
  void mark(int64_t position) { bits_[position >> 6] |= uint64_t{1} << (position & 63); }
  // The first marked position in [position, limit), or limit.
  int64_t next(int64_t position, int64_t limit) const {
    while (position < limit) {
      const uint64_t word = bits_[position >> 6] >> (position & 63);
      if (word != 0) {
        position += __builtin_ctzll(word);
        return position < limit ? position : limit;
      }
      position = (position | 63) + 1;
    }
    return limit;
  }

 private:
  uint64_t* bits_;
};

// An integer column seen through a list of rows, as offsets from its smallest value.
struct GroupColumn {
  const int64_t* value;
  uint64_t smallest = 0;
  int bits = 0;  // that the largest offset needs

  GroupColumn(const int64_t* column, const int32_t* row, int64_t count) : value(column) {
    if (column == nullptr || count == 0) return;
    int64_t low = column[row[0]];
    int64_t high = low;
    for (int64_t r = 1; r < count; ++r) {
      const int64_t v = column[row[r]];
      low = v < low ? v : low;
      high = v > high ? v : high;
    }
    smallest = static_cast<uint64_t>(low);
    const uint64_t range = static_cast<uint64_t>(high) - smallest;
    bits = range == 0 ? 0 : 64 - __builtin_clzll(range);
  }
  uint64_t offset(int32_t row) const { return bits == 0 ? 0 : static_cast<uint64_t>(value[row]) - smallest; }
};

template <class Key, class F>
void sort_ranks(int32_t* rank, int64_t count, int bits, F&& key_of) {
  Scratch scratch;
  Key* key = scratch.take<Key>(count);
  for (int64_t i = 0; i < count; ++i) key[i] = static_cast<Key>(key_of(rank[i]));
  radix_sort(key, rank, count, bits);
}

// Fills `rank` with 0..count-1, grouped and ascending inside each group; row[rank] is its row. Marks where groups
// start.
template <class T>
void group_ranks(const NmsArgs<T>& a, const int32_t* row, int32_t* rank, int64_t count, PositionSet& starts) {
  const GroupColumn label(a.labels, row, count);
  const GroupColumn batch(a.batch, row, count);
  for (int64_t i = 0; i < count; ++i) rank[i] = static_cast<int32_t>(i);
  const int bits = label.bits + batch.bits;
  if (bits > 64) {  // stable sorts by the minor, then by the major column
    sort_ranks<uint64_t>(rank, count, label.bits, [&](int32_t r) { return label.offset(row[r]); });
    sort_ranks<uint64_t>(rank, count, batch.bits, [&](int32_t r) { return batch.offset(row[r]); });
  } else if (bits > 0) {
    const auto both = [&](int32_t r) {
      const uint64_t major = batch.bits == 0 ? 0 : batch.offset(row[r]) << label.bits;
      return major | label.offset(row[r]);
    };
    bits <= 32 ? sort_ranks<uint32_t>(rank, count, bits, both) : sort_ranks<uint64_t>(rank, count, bits, both);
  }
  for (int64_t i = 0; i < count; ++i) {
    const bool same = i > 0 && label.offset(row[rank[i]]) == label.offset(row[rank[i - 1]]) &&
                      batch.offset(row[rank[i]]) == batch.offset(row[rank[i - 1]]);
    if (!same) starts.mark(i);
  }
}

TENFOLD_END
