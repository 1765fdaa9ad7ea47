// Sums of all entries before each one, in three kernels per level: no block waits for another.
#pragma once
#include "common/device.h"

namespace tenfold::device {

constexpr int kScanThreads = 256;
constexpr int kScanEach = 4;
constexpr int kScanTile = kScanThreads * kScanEach;

// Sum of the values of the threads before this one in the block; `total` is the sum of all. 256 threads.
template <class T>
__device__ __forceinline__ T block_sum_before(T value, T* warp_sums, T& total) {
  T inclusive = value;
  for (int step = 1; step < kWarpLanes; step *= 2) {
    const T below = __shfl_up_sync(kAllLanes, inclusive, step);
    if (lane() >= step) inclusive += below;
  }
  if (lane() == kWarpLanes - 1) warp_sums[warp()] = inclusive;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < kScanThreads / kWarpLanes; ++w) {
    if (w < warp()) before += warp_sums[w];
    total += warp_sums[w];
  }
  __syncthreads();  // warp_sums may be used again
  return before + (inclusive - value);
}

template <class T>
__global__ void __launch_bounds__(kScanThreads) scan_reduce(const T* in, int64_t n, T* tile_sum) {
  TENFOLD_SHARED(T, warp_sums, kScanThreads / kWarpLanes);
  T sum = 0;
  for (int k = 0; k < kScanEach; ++k) {
    const int64_t i = int64_t{blockIdx.x} * kScanTile + k * kScanThreads + threadIdx.x;
    if (i < n) sum += in[i];
  }
  T total;
  block_sum_before(sum, warp_sums, total);
  if (threadIdx.x == 0) tile_sum[blockIdx.x] = total;
}

// `base` holds what comes before each tile, or is null: one tile. in == out is fine.
template <class T>
__global__ void __launch_bounds__(kScanThreads) scan_tiles(const T* in, int64_t n, const T* base, T* out, T* end) {
  TENFOLD_SHARED(T, warp_sums, kScanThreads / kWarpLanes);
  const int64_t first = int64_t{blockIdx.x} * kScanTile + int64_t{threadIdx.x} * kScanEach;
  T value[kScanEach];
  T sum = 0;
  for (int k = 0; k < kScanEach; ++k) {
    value[k] = first + k < n ? in[first + k] : T(0);
    sum += value[k];
  }
  T total;
  T before = block_sum_before(sum, warp_sums, total) + (base != nullptr ? base[blockIdx.x] : T(0));
  for (int k = 0; k < kScanEach; ++k) {
    if (first + k < n) out[first + k] = before;
    before += value[k];
    if (first + k == n - 1 && end != nullptr) *end = before;
  }
}

// out[i] = in[0] + ... + in[i - 1]; *end (may be null) the sum of all. n = 0 leaves *end 0. in == out is fine.
template <class T>
void exclusive_scan(const Stream& stream, const T* in, int64_t n, T* out, T* end) {
  if (n == 0) {
    if (end != nullptr) fill_device(stream, end, 0, sizeof(T));
    return;
  }
  const unsigned tiles = blocks_for(n, kScanTile);
  T* base = nullptr;
  if (tiles > 1) {
    base = stream.scratch<T>(tiles);
    TENFOLD_LAUNCH(scan_reduce<T>, tiles, kScanThreads, stream, in, n, base);
    exclusive_scan<T>(stream, base, tiles, base, nullptr);
  }
  TENFOLD_LAUNCH(scan_tiles<T>, tiles, kScanThreads, stream, in, n, static_cast<const T*>(base), out, end);
}

}  // namespace tenfold::device
