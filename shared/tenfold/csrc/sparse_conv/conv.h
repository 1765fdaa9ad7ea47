// Sparse convolution over a rulebook, its weight gradient, and max pooling: tenfold-core section 7.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

// out[o] = bias + sum over k of weight[:, k, :] features[table[k][o]], offsets in ascending order.
template <class T>
struct SparseConvArgs {
  const T* features;     // (in_rows, c_in)
  const T* weight;       // (c_out, K, c_in)
  const T* bias;         // (c_out) or null
  const int32_t* table;  // (K, out_rows)
  int64_t in_rows, out_rows, c_in, c_out, offsets;
  Parallel parallel;
  T* out;    // (out_rows, c_out)
  bool bad;  // out: a table entry is not below in_rows (nothing was read through it)
};

// grad_weight[:, k, :] = sum over o of grad[o] features[table[k][o]]^T, outputs in ascending order.
template <class T>
struct SparseConvWeightArgs {
  const T* features;     // (in_rows, c_in)
  const T* grad;         // (out_rows, c_out)
  const int32_t* table;  // (K, out_rows)
  int64_t in_rows, out_rows, c_in, c_out, offsets;
  Parallel parallel;
  T* grad_weight;  // (c_out, K, c_in)
  bool bad;
};

// out[o] = maximum over the present inputs, arg = the input row that gives it (lowest offset on ties), -1 if none.
template <class T>
struct SparseMaxPoolArgs {
  const T* features;     // (in_rows, channels)
  const int32_t* table;  // (K, out_rows)
  int64_t in_rows, out_rows, channels, offsets;
  Parallel parallel;
  T* out;        // (out_rows, channels)
  int32_t* arg;  // (out_rows, channels)
  bool bad;
};

}  // namespace tenfold

TENFOLD_KERNEL(sparse_conv_f32, SparseConvArgs<float>)
TENFOLD_KERNEL(sparse_conv_f64, SparseConvArgs<double>)
TENFOLD_KERNEL(sparse_conv_weight_f32, SparseConvWeightArgs<float>)
TENFOLD_KERNEL(sparse_conv_weight_f64, SparseConvWeightArgs<double>)
TENFOLD_KERNEL(sparse_max_pool_f32, SparseMaxPoolArgs<float>)
TENFOLD_KERNEL(sparse_max_pool_f64, SparseMaxPoolArgs<double>)
