// Rows grouped by a small integer, ascending inside each group: what sums in a fixed order stand on.
#pragma once
#include "common/device_sort.h"

namespace tenfold::device {

// Rows of segment s are row[begin[s]] .. row[begin[s + 1] - 1]; those with no segment are behind the last.
struct Segments {
  int32_t* begin;  // (segments + 1,)
  int32_t* row;    // (n,)
};

// First place of each value in sorted keys. One thread per boundary between neighbours.
struct FindBegins {
  const uint32_t* key;
  int64_t n;
  int64_t segments;
  int32_t* begin;
  __device__ void operator()(int64_t i) const {  // i <= n
    const int64_t from = i == 0 ? 0 : int64_t{key[i - 1]} + 1;
    int64_t to = i == n ? segments : int64_t{key[i]};
    if (to > segments) to = segments;
    for (int64_t s = from; s <= to; ++s) begin[s] = static_cast<int32_t>(i);
  }
};

// `key` (n,) in [0, segments]; rows with key == segments take no part.
inline Segments make_segments(const Stream& stream, const uint32_t* key, int64_t n, int64_t segments) {
  const Sorted<uint32_t> sorted = radix_sort<uint32_t>(stream, key, nullptr, n, bits_for(static_cast<uint64_t>(segments)));
  Segments result{stream.scratch<int32_t>(segments + 1), sorted.row};
  each("segment_begins", stream, n + 1, FindBegins{sorted.key, n, segments, result.begin});
  return result;
}

}  // namespace tenfold::device
