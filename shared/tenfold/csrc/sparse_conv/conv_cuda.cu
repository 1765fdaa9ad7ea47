// Sparse convolution as an implicit product: a block owns 64 output rows and 64 output channels and walks the offsets,
// gathering the present input rows into shared memory; nothing is scattered and no sum is atomic. Entries of the table
// outside the input count as absent.
#include "sparse_conv/conv.h"

#include "common/device.h"

namespace tenfold::cuda {
namespace {

using namespace device;

constexpr int kTile = 64;    // rows, and output channels, of a block
constexpr int kDepth = 16;   // input channels at a time
constexpr int kThreads = 256;
constexpr int kEach = 4;     // results of a thread along each side

// Sums of products are compared within a tolerance: a device may fuse them.
template <class T>
__device__ __forceinline__ T multiply_add(T a, T b, T c) {
#ifdef __CUDACC__
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

template <class T>
__global__ void __launch_bounds__(kThreads) sparse_conv_kernel(SparseConvArgs<T> a, int64_t row_tiles) {
  TENFOLD_SHARED(T, input, kTile * (kDepth + 1));
  TENFOLD_SHARED(T, weight, kDepth * kTile);
  TENFOLD_SHARED(int32_t, source, kTile);
  TENFOLD_SHARED(int32_t, present, kTile / kWarpLanes);
  const int64_t first_row = blockIdx.x % row_tiles * kTile, first_out = blockIdx.x / row_tiles * kTile;
  const int mine_row = static_cast<int>(threadIdx.x) / (kTile / kEach) * kEach;
  const int mine_out = static_cast<int>(threadIdx.x) % (kTile / kEach) * kEach;
  T sum[kEach][kEach] = {};
  for (int64_t k = 0; k < a.offsets; ++k) {
    if (threadIdx.x < kTile) {
      const int64_t row = first_row + threadIdx.x;
      int32_t from = row < a.out_rows ? a.table[k * a.out_rows + row] : -1;
      if (from >= a.in_rows) from = -1;
      source[threadIdx.x] = from;
      const unsigned some = __ballot_sync(kAllLanes, from >= 0);
      if (lane() == 0) present[warp()] = some != 0 ? 1 : 0;
    }
    __syncthreads();
    const bool any = present[0] != 0 || present[1] != 0;  // the same for the whole block
    for (int64_t depth = 0; any && depth < a.c_in; depth += kDepth) {
      for (int e = static_cast<int>(threadIdx.x); e < kTile * kDepth; e += kThreads) {
        const int r = e / kDepth, d = e % kDepth;
        const int32_t from = source[r];
        input[r * (kDepth + 1) + d] =
            from >= 0 && depth + d < a.c_in ? a.features[from * a.c_in + depth + d] : T(0);
        const int o = e / kDepth;
        weight[d * kTile + o] = first_out + o < a.c_out && depth + d < a.c_in
                                    ? a.weight[((first_out + o) * a.offsets + k) * a.c_in + depth + d]
                                    : T(0);
      }
      __syncthreads();
      for (int d = 0; d < kDepth; ++d) {
        T x[kEach], w[kEach];
        for (int i = 0; i < kEach; ++i) {
          x[i] = input[(mine_row + i) * (kDepth + 1) + d];
          w[i] = weight[d * kTile + mine_out + i];
        }
        for (int i = 0; i < kEach; ++i)
          for (int j = 0; j < kEach; ++j) sum[i][j] = multiply_add(x[i], w[j], sum[i][j]);
      }
      __syncthreads();
    }
    __syncthreads();  // source and present are about to change
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const int64_t row = first_row + mine_row + i, o = first_out + mine_out + j;
      if (row < a.out_rows && o < a.c_out)
        a.out[row * a.c_out + o] = a.bias != nullptr ? sum[i][j] + a.bias[o] : sum[i][j];
    }
  }
}

template <class T>
void sparse_conv(SparseConvArgs<T>& a) {
  a.bad = false;
  const int64_t rows = blocks_for(a.out_rows, kTile), outs = blocks_for(a.c_out, kTile);
  TENFOLD_LAUNCH(sparse_conv_kernel<T>, blocks_for(rows * outs, 1), kThreads, *a.parallel.stream, a, rows);
}

// A block owns 16 output and 16 input channels of one offset and adds the rows in ascending order.
constexpr int kSide = 16;
constexpr int kRows = 32;

template <class T>
__global__ void __launch_bounds__(kSide * kSide) sparse_conv_weight_kernel(SparseConvWeightArgs<T> a, int64_t in_tiles,
                                                                         int64_t out_tiles) {
  TENFOLD_SHARED(T, grad, kRows * kSide);
  TENFOLD_SHARED(T, input, kRows * kSide);
  const int64_t k = blockIdx.x / (in_tiles * out_tiles), tile = blockIdx.x % (in_tiles * out_tiles);
  const int64_t first_out = tile / in_tiles * kSide, first_in = tile % in_tiles * kSide;
  const int mine_out = static_cast<int>(threadIdx.x) / kSide, mine_in = static_cast<int>(threadIdx.x) % kSide;
  T sum = T(0);
  for (int64_t first = 0; first < a.out_rows; first += kRows) {
    for (int e = static_cast<int>(threadIdx.x); e < kRows * kSide; e += kSide * kSide) {
      const int64_t row = first + e / kSide;
      const int c = e % kSide;
      int32_t from = row < a.out_rows ? a.table[k * a.out_rows + row] : -1;
      if (from >= a.in_rows) from = -1;
      grad[e] = from >= 0 && first_out + c < a.c_out ? a.grad[row * a.c_out + first_out + c] : T(0);
      input[e] = from >= 0 && first_in + c < a.c_in ? a.features[from * a.c_in + first_in + c] : T(0);
    }
    __syncthreads();
    for (int r = 0; r < kRows; ++r) sum = multiply_add(grad[r * kSide + mine_out], input[r * kSide + mine_in], sum);
    __syncthreads();
  }
  if (first_out + mine_out < a.c_out && first_in + mine_in < a.c_in)
    a.grad_weight[((first_out + mine_out) * a.offsets + k) * a.c_in + first_in + mine_in] = sum;
}

template <class T>
void sparse_conv_weight(SparseConvWeightArgs<T>& a) {
  a.bad = false;
  const int64_t in_tiles = blocks_for(a.c_in, kSide), out_tiles = blocks_for(a.c_out, kSide);
  TENFOLD_LAUNCH(sparse_conv_weight_kernel<T>, blocks_for(a.offsets * in_tiles * out_tiles, 1), kSide * kSide,
                 *a.parallel.stream, a, in_tiles, out_tiles);
}

template <class T>
struct MaxPool {
  SparseMaxPoolArgs<T> a;
  __device__ void operator()(int64_t i) const {
    const int64_t o = i / a.channels, c = i % a.channels;
    T best = T(0);
    int32_t who = -1;
    for (int64_t k = 0; k < a.offsets; ++k) {
      const int32_t row = a.table[k * a.out_rows + o];
      if (row < 0 || row >= a.in_rows) continue;
      const T x = a.features[row * a.channels + c];
      if (who >= 0 && !(x > best)) continue;
      best = x;
      who = row;
    }
    a.out[i] = best;
    a.arg[i] = who;
  }
};

template <class T>
void sparse_max_pool(SparseMaxPoolArgs<T>& a) {
  a.bad = false;
  each("sparse_max_pool", *a.parallel.stream, a.out_rows * a.channels, MaxPool<T>{a});
}

}  // namespace

void sparse_conv_f32(SparseConvArgs<float>& args) { sparse_conv(args); }
void sparse_conv_f64(SparseConvArgs<double>& args) { sparse_conv(args); }
void sparse_conv_weight_f32(SparseConvWeightArgs<float>& args) { sparse_conv_weight(args); }
void sparse_conv_weight_f64(SparseConvWeightArgs<double>& args) { sparse_conv_weight(args); }
void sparse_max_pool_f32(SparseMaxPoolArgs<float>& args) { sparse_max_pool(args); }
void sparse_max_pool_f64(SparseMaxPoolArgs<double>& args) { sparse_max_pool(args); }

}  // namespace tenfold::cuda
