#include "scatter/scatter.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kAhead = 8;

// Segment of every row as int32, -1 where it takes no part; counts and the first row of every segment.
template <class T, class Index>
void read_index(ScatterArgs<T>& a, const Index* index, int32_t* segment, int32_t* first) {
  std::memset(a.count, 0, static_cast<size_t>(a.num) * sizeof(int32_t));
  for (int64_t i = a.n - 1; i >= 0; --i) {  // backwards: the last write to first is the first row
    const Index s = index[i];
    const bool inside = s >= 0 && s < a.num;
    segment[i] = inside ? static_cast<int32_t>(s) : -1;
    if (inside) {
      ++a.count[s];
      first[s] = static_cast<int32_t>(i);
    } else if (a.validate && s != -1) {
      a.bad_row = i;
    }
  }
}

// ---- one row into its segment --------------------------------------------------------------------------

template <class T>
struct Add {
  static void row(T* out, int32_t*, const T* in, int64_t, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) out[c] += in[c];
  }
};

// NaN wins over every number, and the first NaN over later ones.
template <class T, bool kMax>
struct Best {
  static bool better(T candidate, T best) {
    return ((kMax ? candidate > best : candidate < best) | (candidate != candidate)) & (best == best);
  }
  static void row(T* out, int32_t* arg, const T* in, int64_t i, int64_t channels) {
    if (arg == nullptr) {
      for (int64_t c = 0; c < channels; ++c) out[c] = better(in[c], out[c]) ? in[c] : out[c];
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const bool take = better(in[c], out[c]);
      out[c] = take ? in[c] : out[c];
      arg[c] = take ? static_cast<int32_t>(i) : arg[c];
    }
  }
};

// kChannels = 0: any number.
template <class Op, int kChannels, class T>
void accumulate(const ScatterArgs<T>& a, const int32_t* segment) {
  const int64_t channels = kChannels ? kChannels : a.channels;
  for (int64_t i = 0; i < a.n; ++i) {
    if (i + kAhead < a.n && segment[i + kAhead] >= 0) prefetch_write(a.out + segment[i + kAhead] * channels);
    const int64_t s = segment[i];
    if (s < 0) continue;
    Op::row(a.out + s * channels, a.arg == nullptr ? nullptr : a.arg + s * channels, a.feats + i * channels, i,
            channels);
  }
}

template <class Op, class T>
void accumulate_any(const ScatterArgs<T>& a, const int32_t* segment) {
  switch (a.channels) {
    case 1: return accumulate<Op, 1>(a, segment);
    case 3: return accumulate<Op, 3>(a, segment);
    case 4: return accumulate<Op, 4>(a, segment);
    case 5: return accumulate<Op, 5>(a, segment);
    default: return accumulate<Op, 0>(a, segment);
  }
}

template <class T>
void scatter(ScatterArgs<T>& a) {
  a.bad_row = -1;
  Scratch scratch;
  int32_t* segment = scratch.take<int32_t>(a.n);
  int32_t* first = scratch.take<int32_t>(a.num);
  if (a.index32 != nullptr)
    read_index(a, a.index32, segment, first);
  else
    read_index(a, a.index64, segment, first);
  if (a.bad_row >= 0) return;
  const bool best = a.reduce == Reduce::max || a.reduce == Reduce::min;
  const T worst = (a.reduce == Reduce::max ? -1 : 1) * std::numeric_limits<T>::infinity();
  for (int64_t s = 0; s < a.num; ++s) {
    const T start = best && a.count[s] > 0 ? worst : T{0};
    for (int64_t c = 0; c < a.channels; ++c) a.out[s * a.channels + c] = start;
    if (a.arg == nullptr) continue;
    const int32_t row = a.count[s] > 0 ? first[s] : -1;
    for (int64_t c = 0; c < a.channels; ++c) a.arg[s * a.channels + c] = row;
  }
  switch (a.reduce) {
    case Reduce::max: accumulate_any<Best<T, true>>(a, segment); break;
    case Reduce::min: accumulate_any<Best<T, false>>(a, segment); break;
    default: accumulate_any<Add<T>>(a, segment);
  }
  if (a.reduce != Reduce::mean) return;
  for (int64_t s = 0; s < a.num; ++s)
    if (a.count[s] > 1)
      for (int64_t c = 0; c < a.channels; ++c) a.out[s * a.channels + c] /= static_cast<T>(a.count[s]);
}

// ---- gradient ------------------------------------------------------------------------------------------

template <class T>
void backward_row(const ScatterBackwardArgs<T>& a, int64_t i, int64_t s) {
  T* to = a.grad_feats + i * a.channels;
  if (s < 0 || s >= a.num) {
    std::memset(to, 0, static_cast<size_t>(a.channels) * sizeof(T));
    return;
  }
  const T* from = a.grad + s * a.channels;
  if (a.reduce == Reduce::sum) {
    std::memcpy(to, from, static_cast<size_t>(a.channels) * sizeof(T));
  } else if (a.reduce == Reduce::mean) {
    const T count = static_cast<T>(a.count[s]);
    for (int64_t c = 0; c < a.channels; ++c) to[c] = from[c] / count;
  } else {
    const int32_t* arg = a.arg + s * a.channels;
    for (int64_t c = 0; c < a.channels; ++c) to[c] = arg[c] == static_cast<int32_t>(i) ? from[c] : T{0};
  }
}

template <class T>
void backward(ScatterBackwardArgs<T>& a) {
  const int64_t piece = 1 + (int64_t{1} << 19) / (a.channels + 1);
  parallel_ranges(a.parallel, a.n, piece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) backward_row(a, i, a.index32 != nullptr ? a.index32[i] : a.index64[i]);
  });
}

}  // namespace

void scatter_f32(ScatterArgs<float>& args) { scatter(args); }
void scatter_f64(ScatterArgs<double>& args) { scatter(args); }
void scatter_backward_f32(ScatterBackwardArgs<float>& args) { backward(args); }
void scatter_backward_f64(ScatterBackwardArgs<double>& args) { backward(args); }

TENFOLD_END
