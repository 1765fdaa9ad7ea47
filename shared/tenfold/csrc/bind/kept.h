// Rows that a suppression kept, as tensors.
#pragma once
#include "bind/common.h"
#ifdef TENFOLD_DEVICE
#include "nms/result.h"
#endif

namespace tenfold::bind {

struct Kept {
  const int32_t* rows;
  int64_t number;             // CPU
  const int32_t* number_there;  // CUDA: on the device
};

// The rows and -1 behind them, and the number of rows.
inline void write_rows(const Kept& kept, const Tensor& keep, const Tensor* count) {
#ifdef TENFOLD_DEVICE
  cuda::write_kept(stream(), kept.rows, kept.number_there, keep.numel(), out<int64_t>(keep),
                   count != nullptr ? out<int32_t>(*count) : nullptr);
#else
  int64_t* to = out<int64_t>(keep);
  for (int64_t i = 0; i < keep.numel(); ++i) to[i] = i < kept.number ? kept.rows[i] : -1;
  if (count != nullptr) *out<int32_t>(*count) = static_cast<int32_t>(kept.number);
#endif
}

inline Tensor row_list(const Kept& kept) {
#ifdef TENFOLD_DEVICE
  const Tensor keep = new_tensor({cuda::kept_rows(stream(), kept.number_there)}, ScalarType::Long);
#else
  const Tensor keep = new_tensor({kept.number}, ScalarType::Long);
#endif
  write_rows(kept, keep, nullptr);
  return keep;
}

}  // namespace tenfold::bind
