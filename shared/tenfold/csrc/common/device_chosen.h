// The gradient of a maximum: every entry of `grad` goes to the row that `arg` names, entries of one row in ascending
// order.
#pragma once
#include "common/device_segments.h"

namespace tenfold::device {

// Where (element, row, channel) is in the result, for every (element, group, channel); behind the end for none.
struct ChosenKey {
  const int32_t* arg;
  int64_t elements, groups, n, channels;
  uint32_t* key;
  __device__ void operator()(int64_t i) const {
    const int64_t c = i % channels, element = i / channels / groups, row = arg[i];
    key[i] = static_cast<uint32_t>(row >= 0 && row < n ? (element * n + row) * channels + c : elements * n * channels);
  }
};

template <class T>
struct SumChosen {
  const T* grad;
  Segments segments;
  T* to;
  __device__ void operator()(int64_t i) const {
    T sum = T(0);
    for (int32_t j = segments.begin[i]; j < segments.begin[i + 1]; ++j) sum = rn_add(sum, grad[segments.row[j]]);
    to[i] = sum;
  }
};

// grad, arg: (elements, groups, channels); to: (elements, n, channels).
template <class T>
void sum_chosen(const Stream& stream, const T* grad, const int32_t* arg, int64_t elements, int64_t groups, int64_t n,
                int64_t channels, T* to) {
  const int64_t entries = elements * groups * channels, cells = elements * n * channels;
  if (cells == 0) return;
  if (entries >= (int64_t{1} << 31) || cells >= (int64_t{1} << 31))
    throw std::runtime_error("[tenfold:ValueError]gradient of a maximum: expected fewer than 2^31 entries on CUDA");
  auto* key = stream.scratch<uint32_t>(entries);
  each("chosen_key", stream, entries, ChosenKey{arg, elements, groups, n, channels, key});
  each("sum_chosen", stream, cells, SumChosen<T>{grad, make_segments(stream, key, entries, cells), to});
}

}  // namespace tenfold::device
