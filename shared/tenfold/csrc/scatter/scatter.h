// Reduction of rows that share a segment: contract in tenfold-core 6.5.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"

namespace tenfold {

enum class Reduce : int { sum = 0, mean = 1, max = 2, min = 3 };

template <class T>
struct ScatterArgs {
  const T* feats;          // (n, channels)
  const int32_t* index32;  // (n,) segment of every row, one of the two; outside [0, num): ignored
  const int64_t* index64;
  int64_t n;
  int64_t channels;
  int64_t num;
  Reduce reduce;
  bool validate;           // an index outside [-1, num) stops the kernel
  Parallel parallel;
  T* out;                  // (num, channels) out; 0 where a segment has no row
  int32_t* arg;            // (num, channels) out or null: first row that attains the max or min, or -1
  int32_t* count;          // (num,) out: rows of every segment
  int64_t bad_row;         // out: first row whose index fails validation, or -1
};

template <class T>
struct ScatterBackwardArgs {
  const T* grad;           // (num, channels)
  const int32_t* index32;
  const int64_t* index64;
  const int32_t* arg;      // max and min
  const int32_t* count;    // mean
  int64_t n;
  int64_t channels;
  int64_t num;
  Reduce reduce;
  Parallel parallel;
  T* grad_feats;           // (n, channels) out
};

}  // namespace tenfold

TENFOLD_KERNEL(scatter_f32, ScatterArgs<float>)
TENFOLD_KERNEL(scatter_f64, ScatterArgs<double>)
TENFOLD_KERNEL(scatter_backward_f32, ScatterBackwardArgs<float>)
TENFOLD_KERNEL(scatter_backward_f64, ScatterBackwardArgs<double>)
