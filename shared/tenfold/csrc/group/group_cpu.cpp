#include "group/group.h"

#include <utility>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/row_groups.h"
#include "common/stream.h"
#include "common/table_check.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kAhead = 8;                      // rows that are prefetched
constexpr int64_t kFetched = 512;                  // bytes of a row that are

template <class T>
void prefetch_row(const T* feats, const IndexTable& t, int64_t entry, int64_t base, int64_t channels) {
  const int64_t row = t.at(entry);
  if (row < 0 || row >= t.n) return;
  const char* p = reinterpret_cast<const char*>(feats + (base + row) * channels);
  const int64_t bytes = channels * static_cast<int64_t>(sizeof(T));
  for (int64_t b = 0; b < bytes && b < kFetched; b += 64) prefetch(p + b);
}

// ---- group ---------------------------------------------------------------------------------------------

// Whether the rows of the output are whole, aligned vectors that are written past the caches.
template <class T>
bool streams(const GroupArgs<T>& a) {
  const int64_t bytes = a.channels * static_cast<int64_t>(sizeof(T));
  return a.stream_from > 0 && a.table.entries() * bytes >= a.stream_from && a.center == nullptr &&
         bytes % sizeof(vint) == 0 && reinterpret_cast<uintptr_t>(a.out) % sizeof(vint) == 0;
}

inline void stream_bytes(void* to, const void* from, int64_t bytes) {
  for (int64_t b = 0; b < bytes; b += sizeof(vint)) {
    vint v;
    std::memcpy(&v, static_cast<const char*>(from) + b, sizeof v);
    vstream(static_cast<char*>(to) + b, v);
  }
}

template <bool kStreamed, class T>
void group_rows(const GroupArgs<T>& a, int64_t begin, int64_t end) {
  const IndexTable& t = a.table;
  const int64_t last = end * t.k;
  for (int64_t g = begin; g < end; ++g) {
    const int64_t base = g / t.groups * t.n;
    const bool empty = a.count != nullptr && a.count[g] <= 0;
    T* to = a.out + g * t.k * a.channels;
    for (int64_t j = 0; j < t.k; ++j, to += a.channels) {
      const int64_t entry = g * t.k + j;
      if (entry + kAhead < last) prefetch_row(a.feats, t, entry + kAhead, base, a.channels);
      const int64_t row = t.at(entry);
      if (empty || row < 0 || row >= t.n) {
        fill_bytes(to, 0, static_cast<size_t>(a.channels) * sizeof(T));
        continue;
      }
      const T* from = a.feats + (base + row) * a.channels;
      if constexpr (kStreamed) {
        stream_bytes(to, from, a.channels * static_cast<int64_t>(sizeof(T)));
        continue;
      }
      copy_bytes(to, from, static_cast<size_t>(a.channels) * sizeof(T));
      if constexpr (sizeof(T) > 2) {
        if (a.center != nullptr)
          for (int c = 0; c < 3; ++c) to[c] -= a.center[3 * g + c];
      }
    }
  }
  if constexpr (kStreamed) stream_end();
}

template <class T>
void group(GroupArgs<T>& a) {
  IndexTable& t = a.table;
  if (!check_table(t, a.count)) return;
  const int64_t bytes = t.k * a.channels * static_cast<int64_t>(sizeof(T));
  const bool streamed = streams(a);
  parallel_ranges(a.parallel, t.elements * t.groups, piece_of(bytes), [&](int64_t, int64_t begin, int64_t end) {
    if (streamed) return group_rows<true>(a, begin, end);
    group_rows<false>(a, begin, end);
  });
}

// ---- group_max -----------------------------------------------------------------------------------------

// Channels [begin, end).
template <class T>
void max_scalar(const T* feats, int64_t channels, const int32_t* rows, int64_t m, int64_t begin, int64_t end, T* out,
                int32_t* arg) {
  const T* first = feats + rows[0] * channels;
  for (int64_t c = begin; c < end; ++c) {
    out[c] = first[c];
    arg[c] = rows[0];
  }
  for (int64_t j = 1; j < m; ++j) {
    const T* v = feats + rows[j] * channels;
    const int32_t row = rows[j];
    for (int64_t c = begin; c < end; ++c) {
      const bool take = better(v[c], out[c]);
      out[c] = take ? v[c] : out[c];
      arg[c] = take ? row : arg[c];
    }
  }
}

// The rows of one group that take part. There is room for k, all of which are rows.
struct Members {
  int32_t* row;
  int64_t count;
};

template <int R>
void prefetch_block(const float* p) {
  for (int i = 0; i < R * kLanes; i += 16) prefetch(p + i);
}

// R vectors of channels at a time stay in registers. While a row is worked on, the same block of a row of the next group
// is fetched, so that waiting for memory spreads over the work. False where a NaN may be among the values: their sum then
// is one, as it is for opposite infinities.
template <int R>
bool max_of_numbers(const float* feats, const Members& at, const float* next_feats, const Members& next,
                    int64_t channels, float* out, int32_t* arg) {
  vfloat best[R], sum[2] = {};
  vint who[R];
  for (int r = 0; r < R; ++r) {
    best[r] = vload(feats + at.row[0] * channels + r * kLanes);
    sum[r % 2] += best[r];
    who[r] = vset(at.row[0]);
  }
  prefetch_block<R>(next_feats + next.row[0] * channels);
  for (int64_t j = 1; j < at.count; ++j) {
    prefetch_block<R>(next_feats + next.row[j] * channels);
    const float* v = feats + at.row[j] * channels;
    const vint row = vset(at.row[j]);
    for (int r = 0; r < R; ++r) {
      const vfloat value = vload(v + r * kLanes);
      who[r] = value > best[r] ? row : who[r];
      best[r] = vmax(value, best[r]);
      sum[r % 2] += value;
    }
  }
  for (int64_t j = at.count; j < next.count; ++j) prefetch_block<R>(next_feats + next.row[j] * channels);
  for (int r = 0; r < R; ++r) {
    vstore(out + r * kLanes, best[r]);
    vstore(arg + r * kLanes, who[r]);
  }
  sum[0] += sum[1];
  return veq(sum[0] == sum[0], vint{}) == 0;
}

template <int R>
void max_block(const float* feats, const Members& at, const float* next_feats, const Members& next, int64_t channels,
               float* out, int32_t* arg) {
  if (max_of_numbers<R>(feats, at, next_feats, next, channels, out, arg)) return;
  max_scalar(feats, channels, at.row, at.count, 0, R * kLanes, out, arg);
}

void max_rows(const float* feats, const Members& at, const float* next_feats, const Members& next, int64_t channels,
              float* out, int32_t* arg) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes)
    max_block<4>(feats + c, at, next_feats + c, next, channels, out + c, arg + c);
  for (; c + kLanes <= channels; c += kLanes)
    max_block<1>(feats + c, at, next_feats + c, next, channels, out + c, arg + c);
  if (c < channels) max_scalar(feats, channels, at.row, at.count, c, channels, out, arg);
}
void max_rows(const double* feats, const Members& at, const double*, const Members&, int64_t channels, double* out,
              int32_t* arg) {
  max_scalar(feats, channels, at.row, at.count, 0, channels, out, arg);
}

template <class T>
void list_rows(const GroupMaxArgs<T>& a, int64_t g, Members& to) {
  const IndexTable& t = a.table;
  int64_t slots = t.k;
  if (a.count != nullptr && a.count[g] < slots) slots = a.count[g] > 0 ? a.count[g] : 0;
  to.count = 0;
  for (int64_t j = 0; j < slots; ++j) {
    const int64_t row = t.at(g * t.k + j);
    if (row >= 0 && row < t.n) to.row[to.count++] = static_cast<int32_t>(row);
  }
}

template <class T>
void group_max_range(const GroupMaxArgs<T>& a, int64_t begin, int64_t end) {
  const IndexTable& t = a.table;
  Scratch scratch;
  Members at{scratch.zeros<int32_t>(t.k), 0}, next{scratch.zeros<int32_t>(t.k), 0};
  if (begin < end) list_rows(a, begin, at);
  for (int64_t g = begin; g < end; ++g) {
    const int64_t after = g + 1 < end ? g + 1 : g;
    list_rows(a, after, next);
    T* out = a.out + g * a.channels;
    int32_t* arg = a.arg + g * a.channels;
    if (at.count == 0) {
      fill_bytes(out, 0, static_cast<size_t>(a.channels) * sizeof(T));
      fill_bytes(arg, 0xff, static_cast<size_t>(a.channels) * sizeof(int32_t));
    } else if (a.channels > 0) {
      const int64_t element = t.n * a.channels;
      max_rows(a.feats + g / t.groups * element, at, a.feats + after / t.groups * element, next, a.channels, out, arg);
    }
    std::swap(at, next);
  }
}

template <class T>
void group_max(GroupMaxArgs<T>& a) {
  IndexTable& t = a.table;
  if (!check_table(t, a.count)) return;
  const int64_t bytes = (t.k + 2) * a.channels * static_cast<int64_t>(sizeof(T));
  parallel_ranges(a.parallel, t.elements * t.groups, piece_of(bytes),
                  [&](int64_t, int64_t begin, int64_t end) { group_max_range(a, begin, end); });
}

// Tasks own blocks of channels of one element, so every row adds its groups in ascending order.
template <class T>
void group_max_backward(GroupMaxBackwardArgs<T>& a) {
  constexpr int64_t kBlock = 16;
  const int64_t blocks = (a.channels + kBlock - 1) / kBlock;
  Parallel parallel = a.parallel;
  if (a.elements * a.groups * a.channels * static_cast<int64_t>(sizeof(T)) < kTaskBytes) parallel.threads = 1;
  parallel_tasks(parallel, a.elements * blocks, [&](int64_t task) {
    const int64_t element = task / blocks;
    const int64_t first = task % blocks * kBlock;
    const int64_t end = first + kBlock < a.channels ? first + kBlock : a.channels;
    T* to = a.grad_feats + element * a.n * a.channels;
    for (int64_t row = 0; row < a.n; ++row)
      for (int64_t c = first; c < end; ++c) to[row * a.channels + c] = 0;
    for (int64_t g = element * a.groups; g < (element + 1) * a.groups; ++g) {
      for (int64_t c = first; c < end; ++c) {
        const int64_t row = a.arg[g * a.channels + c];
        if (row >= 0 && row < a.n) to[row * a.channels + c] += a.grad[g * a.channels + c];
      }
    }
  });
}

}  // namespace

void group_b16(GroupArgs<uint16_t>& args) { group(args); }
void group_f32(GroupArgs<float>& args) { group(args); }
void group_f64(GroupArgs<double>& args) { group(args); }
void group_max_f32(GroupMaxArgs<float>& args) { group_max(args); }
void group_max_f64(GroupMaxArgs<double>& args) { group_max(args); }
void group_max_backward_f32(GroupMaxBackwardArgs<float>& args) { group_max_backward(args); }
void group_max_backward_f64(GroupMaxBackwardArgs<double>& args) { group_max_backward(args); }

TENFOLD_END
