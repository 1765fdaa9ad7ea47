// Rows by index, and their maximum over each group: contract in tenfold-core 6.9.
#pragma once
#include <cstdint>

#include "common/isa.h"
#include "common/parallel.h"
#include "common/table.h"

namespace tenfold {

template <class T>
struct GroupArgs {
  const T* feats;        // (elements, n, channels)
  int64_t channels;
  IndexTable table;
  const int32_t* count;  // (elements, groups) or null: rows of a group with count <= 0 are zero
  const T* center;       // (elements, groups, 3) or null: subtracted from the first three channels
  int64_t stream_from;   // outputs of so many bytes are written past the caches; 0: none is
  Parallel parallel;
  T* out;                // (elements, groups, k, channels) out
};

template <class T>
struct GroupMaxArgs {
  const T* feats;
  int64_t channels;
  IndexTable table;
  const int32_t* count;  // or null: slots that are looked at
  Parallel parallel;
  T* out;                // (elements, groups, channels) out
  int32_t* arg;          // likewise: row inside the element, or -1
};

template <class T>
struct GroupMaxBackwardArgs {
  const T* grad;       // (elements, groups, channels)
  const int32_t* arg;  // likewise
  int64_t elements;
  int64_t groups;
  int64_t n;
  int64_t channels;
  Parallel parallel;
  T* grad_feats;       // (elements, n, channels) out
};

}  // namespace tenfold

// Half precision is copied only: rows of 16-bit words.
TENFOLD_KERNEL(group_b16, GroupArgs<uint16_t>)
TENFOLD_KERNEL(group_f32, GroupArgs<float>)
TENFOLD_KERNEL(group_f64, GroupArgs<double>)
TENFOLD_KERNEL(group_max_f32, GroupMaxArgs<float>)
TENFOLD_KERNEL(group_max_f64, GroupMaxArgs<double>)
TENFOLD_KERNEL(group_max_backward_f32, GroupMaxBackwardArgs<float>)
TENFOLD_KERNEL(group_max_backward_f64, GroupMaxBackwardArgs<double>)
