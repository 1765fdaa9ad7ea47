// Stable least-significant-digit radix sort of keys with an int32 payload, 11 bits a pass. Passes in which
// all keys share one digit are skipped, so small key ranges cost few passes.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/arena.h"
#include "common/isa.h"

TENFOLD_BEGIN

namespace radix_detail {
constexpr int kDigit = 11;
constexpr int kBuckets = 1 << kDigit;
}  // namespace radix_detail

// Sorts (keys, payload) ascending by key. Key is uint32_t or uint64_t; `bits` bounds the significant bits.
// The result is left in the arrays passed in.
template <class Key>
void radix_sort(Key* keys, int32_t* payload, int64_t n, int bits = 8 * sizeof(Key)) {
  using namespace radix_detail;
  if (n <= 1) return;
  if (n <= 64) {  // insertion sort: no histogram to clear
    for (int64_t i = 1; i < n; ++i) {
      const Key key = keys[i];
      const int32_t value = payload[i];
      int64_t j = i;
      for (; j > 0 && keys[j - 1] > key; --j) {
        keys[j] = keys[j - 1];
        payload[j] = payload[j - 1];
      }
      keys[j] = key;
      payload[j] = value;
    }
    return;
  }
  const int passes = (bits + kDigit - 1) / kDigit;
  Scratch scratch;
  Key* other_keys = scratch.take<Key>(n);
  int32_t* other_payload = scratch.take<int32_t>(n);
  int32_t* count = scratch.zeros<int32_t>(int64_t{passes} * kBuckets);
  for (int64_t i = 0; i < n; ++i) {
    const Key key = keys[i];
    for (int p = 0; p < passes; ++p) ++count[p * kBuckets + ((key >> (p * kDigit)) & (kBuckets - 1))];
  }
  Key* from = keys;
  int32_t* from_payload = payload;
  Key* to = other_keys;
  int32_t* to_payload = other_payload;
  for (int p = 0; p < passes; ++p) {
    int32_t* c = count + p * kBuckets;
    if (c[(from[0] >> (p * kDigit)) & (kBuckets - 1)] == n) continue;
    int32_t sum = 0;
    for (int b = 0; b < kBuckets; ++b) {
      const int32_t here = c[b];
      c[b] = sum;
      sum += here;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int32_t place = c[(from[i] >> (p * kDigit)) & (kBuckets - 1)]++;
      to[place] = from[i];
      to_payload[place] = from_payload[i];
    }
    Key* k = from;
    from = to;
    to = k;
    int32_t* v = from_payload;
    from_payload = to_payload;
    to_payload = v;
  }
  if (from != keys) {
    std::memcpy(keys, from, static_cast<size_t>(n) * sizeof(Key));
    std::memcpy(payload, from_payload, static_cast<size_t>(n) * sizeof(int32_t));
  }
}

// Order-preserving bits of a float; -0.0 maps to +0.0 so that both tie. NaN must be dropped before.
static inline uint32_t float_order_bits(float x) {
  uint32_t u;
  x = x + 0.0f;  // -0.0 + 0.0 = +0.0
  std::memcpy(&u, &x, sizeof u);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
static inline uint64_t float_order_bits(double x) {
  uint64_t u;
  x = x + 0.0;
  std::memcpy(&u, &x, sizeof u);
  return u >> 63 ? ~u : u | (uint64_t{1} << 63);
}

TENFOLD_END
