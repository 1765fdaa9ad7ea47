#include "scatter/scatter.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int kBlock = 256;  // rows whose segments are read at a time
constexpr int kAhead = 8;

template <class T>
constexpr bool is_wide(int64_t channels) {
  return channels * static_cast<int64_t>(sizeof(T)) >= 128;
}

// The part of the output that one task owns: no two tasks write the same entry, so rows are added in ascending
// order whatever the number of threads.
struct Part {
  int32_t first_segment, end_segment;
  int64_t first_channel, end_channel;
};

// ---- the rows of a block that take part ----------------------------------------------------------------

// Segments as int32: -1 where a row is left out, -2 where its index is out of range.
template <class Index>
void read_segments(const Index* index, int count, int64_t num, int32_t* segment) {
  const Index end = static_cast<Index>(num);
  for (int i = 0; i < count; ++i) {
    const Index s = index[i];
    segment[i] = (s >= 0) & (s < end) ? static_cast<int32_t>(s) : s == -1 ? -1 : -2;
  }
}

// Lists the rows of the block whose segment lies in [first, end). The lists have room for kBlock and a vector.
int select_rows(const int32_t* segment, int count, int32_t first, int32_t end, int32_t* rows, int32_t* segments) {
  int m = 0;
  const vint lanes = viota();
  for (int i = 0; i < count; i += kLanes) {
    const vint s = vload(segment + i);
    const lane_mask take = ~vlt(s, vset(first)) & vlt(s, vset(end)) & first_lanes(count - i);
    vcompress(rows + m, lanes + i, take);
    m += vcompress(segments + m, s, take);
  }
  return m;
}

// ---- one row into its segment --------------------------------------------------------------------------

template <class T>
struct Add {
  static constexpr T start() { return 0; }
  static void row(T* out, int32_t*, const T* in, int32_t, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) out[c] += in[c];
  }
};

// NaN wins over every number, and the first NaN over later ones.
template <class T, bool kMax>
struct Best {
  static constexpr T start() { return (kMax ? -1 : 1) * std::numeric_limits<T>::infinity(); }
  static bool better(T candidate, T best) {
    return ((kMax ? candidate > best : candidate < best) | (candidate != candidate)) & (best == best);
  }
  static void row(T* out, int32_t* arg, const T* in, int32_t i, int64_t channels) {
    if (arg == nullptr) {
      for (int64_t c = 0; c < channels; ++c) out[c] = better(in[c], out[c]) ? in[c] : out[c];
      return;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const bool take = better(in[c], out[c]) | (arg[c] < 0);
      out[c] = take ? in[c] : out[c];
      arg[c] = take ? i : arg[c];
    }
  }
};

// ---- passes --------------------------------------------------------------------------------------------

template <class T>
void clear(const ScatterArgs<T>& a, const Part& part, T start) {
  const bool whole_rows = part.end_channel - part.first_channel == a.channels;
  const int64_t rows = whole_rows ? 1 : part.end_segment - part.first_segment;
  const int64_t width = whole_rows ? (part.end_segment - part.first_segment) * a.channels
                                   : part.end_channel - part.first_channel;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = (part.first_segment + r) * a.channels + part.first_channel;
    for (int64_t c = 0; c < width; ++c) a.out[at + c] = start;
    if (a.arg != nullptr) std::memset(a.arg + at, 0xff, static_cast<size_t>(width) * sizeof(int32_t));
  }
  if (part.first_channel == 0)
    fill_bytes(a.count + part.first_segment, 0,
                static_cast<size_t>(part.end_segment - part.first_segment) * sizeof(int32_t));
}

// Returns the first row with an index out of range, or -1. kChannels = 0: those of the part.
template <class Op, int kChannels, class T>
int64_t accumulate(const ScatterArgs<T>& a, const Part& part) {
  clear(a, part, Op::start());
  const int64_t channels = kChannels ? kChannels : part.end_channel - part.first_channel;
  const int64_t pitch = kChannels ? kChannels : a.channels;
  int32_t segment[kBlock], rows[kBlock + kLanes], segments[kBlock + kLanes];
  int64_t bad_row = -1;
  for (int64_t begin = 0; begin < a.n; begin += kBlock) {
    const int count = static_cast<int>(a.n - begin < kBlock ? a.n - begin : kBlock);
    if (a.index32 != nullptr)
      read_segments(a.index32 + begin, count, a.num, segment);
    else
      read_segments(a.index64 + begin, count, a.num, segment);
    if (a.validate && bad_row < 0) {
      int worst = 0;
      for (int i = 0; i < count; ++i) worst |= segment[i] == -2;
      for (int i = 0; worst != 0 && i < count && bad_row < 0; ++i)
        if (segment[i] == -2) bad_row = begin + i;
    }
    const int m = select_rows(segment, count, part.first_segment, part.end_segment, rows, segments);
    T* const out = a.out + part.first_channel;
    int32_t* const arg = a.arg == nullptr ? nullptr : a.arg + part.first_channel;
    for (int j = 0; j < m; ++j) {
      if (j + kAhead < m) prefetch_write(out + segments[j + kAhead] * pitch);
      const int64_t row = begin + rows[j];
      const int64_t at = segments[j] * pitch;
      Op::row(out + at, arg == nullptr ? nullptr : arg + at, a.feats + row * pitch + part.first_channel,
              static_cast<int32_t>(row), channels);
    }
    if (part.first_channel == 0)
      for (int j = 0; j < m; ++j) ++a.count[segments[j]];
  }
  return bad_row;
}

template <class Op, class T>
int64_t accumulate_any(const ScatterArgs<T>& a, const Part& part) {
  switch (a.channels) {
    case 1: return accumulate<Op, 1>(a, part);
    case 3: return accumulate<Op, 3>(a, part);
    case 4: return accumulate<Op, 4>(a, part);
    case 5: return accumulate<Op, 5>(a, part);
    default: return accumulate<Op, 0>(a, part);
  }
}

template <class T>
int64_t reduce_part(const ScatterArgs<T>& a, const Part& part) {
  switch (a.reduce) {
    case Reduce::max: return accumulate_any<Best<T, true>>(a, part);
    case Reduce::min: return accumulate_any<Best<T, false>>(a, part);
    default: return accumulate_any<Add<T>>(a, part);
  }
}

// Means, and zeros where extremes have no row.
template <class T>
void finish(const ScatterArgs<T>& a, int64_t begin, int64_t end) {
  const bool mean = a.reduce == Reduce::mean;
  for (int64_t s = begin; s < end; ++s) {
    T* out = a.out + s * a.channels;
    if (mean && a.count[s] > 1)
      for (int64_t c = 0; c < a.channels; ++c) out[c] /= static_cast<T>(a.count[s]);
    else if (!mean && a.count[s] == 0)
      for (int64_t c = 0; c < a.channels; ++c) out[c] = 0;
  }
}

template <class T>
void scatter(ScatterArgs<T>& a) {
  constexpr int64_t kTaskBytes = int64_t{1} << 20;
  constexpr int64_t kMostTasks = 8;
  constexpr int64_t kFewSegments = 64;
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  const int64_t bytes = a.n * (a.channels + 1) * static_cast<int64_t>(sizeof(T));
  int64_t tasks = bytes / kTaskBytes < kMostTasks ? bytes / kTaskBytes : kMostTasks;
  // Narrow rows are shared out by segment. Wide ones into many segments wait for memory, and two threads were no
  // faster than one in either way of sharing (measured); into few segments they are split by channel, which no
  // distribution of rows can unbalance.
  const bool wide = is_wide<T>(a.channels);
  const bool by_channel = wide && a.num < kFewSegments;
  if (a.parallel.threads <= 1 || tasks < 1 || (wide && !by_channel)) tasks = 1;
  const int64_t units = by_channel ? (a.channels + kLine - 1) / kLine : a.num;
  if (tasks > units) tasks = units > 0 ? units : 1;
  int64_t bad_row = -1;  // every task sees every index: the first says which is bad
  parallel_tasks(a.parallel, tasks, [&](int64_t task) {
    const int64_t from = units * task / tasks;
    const int64_t to = units * (task + 1) / tasks;
    Part part{0, static_cast<int32_t>(a.num), 0, a.channels};
    if (by_channel) {
      part.first_channel = from * kLine;
      part.end_channel = to * kLine < a.channels ? to * kLine : a.channels;
    } else {
      part.first_segment = static_cast<int32_t>(from);
      part.end_segment = static_cast<int32_t>(to);
    }
    const int64_t bad = reduce_part(a, part);
    if (task == 0) bad_row = bad;
  });
  a.bad_row = bad_row;
  if (a.reduce == Reduce::sum || bad_row >= 0) return;
  const int64_t piece = tasks > 1 ? 1 + kTaskBytes / ((a.channels + 1) * static_cast<int64_t>(sizeof(T))) : a.num + 1;
  parallel_ranges(a.parallel, a.num, piece, [&](int64_t, int64_t begin, int64_t end) { finish(a, begin, end); });
}

// ---- gradient ------------------------------------------------------------------------------------------

template <class T>
void backward_row(const ScatterBackwardArgs<T>& a, int64_t i, int64_t s) {
  T* to = a.grad_feats + i * a.channels;
  if (s < 0 || s >= a.num) {
    fill_bytes(to, 0, static_cast<size_t>(a.channels) * sizeof(T));
    return;
  }
  const T* from = a.grad + s * a.channels;
  if (a.reduce == Reduce::sum) {
    copy_bytes(to, from, static_cast<size_t>(a.channels) * sizeof(T));
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
