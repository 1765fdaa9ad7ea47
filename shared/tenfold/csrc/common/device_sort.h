// Stable radix sort of (key, row number) by block histograms, digit by digit from the lowest: three kernels and a scan
// for each 8 bits. Warps rank their entries with ballots, in ascending order, so equal keys keep theirs.
#pragma once
#include "common/device.h"
#include "common/device_scan.h"

namespace tenfold::device {

constexpr int kSortThreads = 256;
constexpr int kSortWarps = kSortThreads / kWarpLanes;
constexpr int kSortRounds = 8;  // entries of a lane
constexpr int kSortTile = kSortThreads * kSortRounds;
constexpr int kSortDigits = 256;

template <class Key>
__device__ __forceinline__ int sort_digit(Key key, int shift) {
  return static_cast<int>((key >> shift) & (kSortDigits - 1));
}

// First entry of round `round` of this thread's warp: a warp's entries are consecutive.
__device__ __forceinline__ int64_t sort_entry(int round) {
  return int64_t{blockIdx.x} * kSortTile + (warp() * kSortRounds + round) * kWarpLanes + lane();
}

// counts[digit][tile]
template <class Key>
__global__ void __launch_bounds__(kSortThreads) sort_count(const Key* key, int64_t n, int shift, int64_t tiles,
                                                           int32_t* counts) {
  TENFOLD_SHARED(int32_t, histogram, kSortDigits);
  histogram[threadIdx.x] = 0;
  __syncthreads();
  for (int round = 0; round < kSortRounds; ++round) {
    const int64_t i = sort_entry(round);
    if (i < n) atomicAdd(&histogram[sort_digit(key[i], shift)], 1);
  }
  __syncthreads();
  counts[threadIdx.x * tiles + blockIdx.x] = histogram[threadIdx.x];
}

// Lanes of the warp with the same digit; lanes that hold no entry are given digit 256.
__device__ __forceinline__ unsigned same_digit(int digit) {
  unsigned same = kAllLanes;
  for (int bit = 0; bit < 9; ++bit) {
    const unsigned set = __ballot_sync(kAllLanes, (digit >> bit) & 1);
    same &= (digit >> bit) & 1 ? set : ~set;
  }
  return same;
}

template <class Key>
__global__ void __launch_bounds__(kSortThreads) sort_move(const Key* key, const int32_t* row, int64_t n, int shift,
                                                          int64_t tiles, const int32_t* place, Key* key_out,
                                                          int32_t* row_out) {
  TENFOLD_SHARED(int32_t, next, kSortWarps * kSortDigits);  // per warp and digit: where its next entry goes
  int32_t* const mine = next + warp() * kSortDigits;
  for (int d = lane(); d < kSortDigits; d += kWarpLanes) mine[d] = 0;
  __syncwarp();
  for (int round = 0; round < kSortRounds; ++round) {
    const int64_t i = sort_entry(round);
    const int digit = i < n ? sort_digit(key[i], shift) : kSortDigits;
    const unsigned same = same_digit(digit);
    if (digit < kSortDigits && (same & lanes_below()) == 0) mine[digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  int32_t at = place[threadIdx.x * tiles + blockIdx.x];  // of digit threadIdx.x
  for (int w = 0; w < kSortWarps; ++w) {
    const int32_t count = next[w * kSortDigits + threadIdx.x];
    next[w * kSortDigits + threadIdx.x] = at;
    at += count;
  }
  __syncthreads();
  for (int round = 0; round < kSortRounds; ++round) {
    const int64_t i = sort_entry(round);
    const Key k = i < n ? key[i] : Key(0);
    const int digit = i < n ? sort_digit(k, shift) : kSortDigits;
    const unsigned same = same_digit(digit);
    int32_t to = 0;
    if (digit < kSortDigits) to = mine[digit] + __popc(same & lanes_below());
    __syncwarp();
    if (digit < kSortDigits) {
      if ((same & lanes_below()) == 0) mine[digit] += __popc(same);
      key_out[to] = k;
      row_out[to] = row != nullptr ? row[i] : static_cast<int32_t>(i);
    }
    __syncwarp();
  }
}

// What a sort leaves: the keys in ascending order and the row of each.
template <class Key>
struct Sorted {
  Key* key;
  int32_t* row;
};

// Sorts by the lowest `bits` bits of unsigned keys; `row` null stands for 0, 1, 2, ... The input is kept.
template <class Key>
Sorted<Key> radix_sort(const Stream& stream, const Key* key, const int32_t* row, int64_t n, int bits) {
  if (n >= int64_t{1} << 31)
    throw std::runtime_error("[tenfold:ValueError]sort: expected fewer than 2^31 entries on CUDA");
  Key* keys[2] = {stream.scratch<Key>(n), stream.scratch<Key>(n)};
  int32_t* rows[2] = {stream.scratch<int32_t>(n), stream.scratch<int32_t>(n)};
  const unsigned tiles = blocks_for(n, kSortTile);
  int32_t* counts = stream.scratch<int32_t>(int64_t{tiles} * kSortDigits);
  int to = 0;
  for (int shift = 0; shift < bits || shift == 0; shift += 8) {
    TENFOLD_LAUNCH(sort_count<Key>, tiles, kSortThreads, stream, key, n, shift, int64_t{tiles}, counts);
    if (tiles > 0) exclusive_scan<int32_t>(stream, counts, int64_t{tiles} * kSortDigits, counts, nullptr);
    TENFOLD_LAUNCH(sort_move<Key>, tiles, kSortThreads, stream, key, row, n, shift, int64_t{tiles},
                   static_cast<const int32_t*>(counts), keys[to], rows[to]);
    key = keys[to];
    row = rows[to];
    to ^= 1;
  }
  return {keys[to ^ 1], rows[to ^ 1]};
}

// Bits that values from 0 to `most` need.
inline int bits_for(uint64_t most) {
  int bits = 0;
  for (; most != 0; most >>= 1) ++bits;
  return bits;
}

}  // namespace tenfold::device
