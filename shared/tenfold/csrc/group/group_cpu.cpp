#include "group/group.h"

#include <cstring>
#include <limits>

#include "common/arena.h"
#include "common/table_check.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kTaskBytes = int64_t{1} << 20;  // read or written by one task
constexpr int64_t kAhead = 8;                      // rows that are prefetched

// Groups per task for groups of so many bytes.
int64_t piece_of(int64_t bytes) { return 1 + kTaskBytes / (bytes + 64); }

template <class T>
void prefetch_row(const T* feats, const IndexTable& t, int64_t entry, int64_t base, int64_t channels) {
  const int64_t row = t.at(entry);
  if (row < 0 || row >= t.n) return;
  const char* p = reinterpret_cast<const char*>(feats + (base + row) * channels);
  const int64_t bytes = channels * static_cast<int64_t>(sizeof(T));
  for (int64_t b = 0; b < bytes && b < 256; b += 64) prefetch(p + b);
}

// ---- group ---------------------------------------------------------------------------------------------

template <class T>
void copy_row(T* to, const T* from, int64_t channels) {
  std::memcpy(to, from, static_cast<size_t>(channels) * sizeof(T));
}

template <class T>
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
        std::memset(static_cast<void*>(to), 0, static_cast<size_t>(a.channels) * sizeof(T));
        continue;
      }
      copy_row(to, a.feats + (base + row) * a.channels, a.channels);
      if constexpr (sizeof(T) > 2) {
        if (a.center != nullptr)
          for (int c = 0; c < 3; ++c) to[c] -= a.center[3 * g + c];
      }
    }
  }
}

template <class T>
void group(GroupArgs<T>& a) {
  IndexTable& t = a.table;
  if (!check_table(t)) return;
  const int64_t bytes = t.k * a.channels * static_cast<int64_t>(sizeof(T));
  parallel_ranges(a.parallel, t.elements * t.groups, piece_of(bytes),
                  [&](int64_t, int64_t begin, int64_t end) { group_rows(a, begin, end); });
}

// ---- group_max -----------------------------------------------------------------------------------------

// NaN wins over every number, and the first NaN over later ones; equal values leave the first.
template <class T>
bool better(T candidate, T best) {
  return ((candidate > best) | (candidate != candidate)) & (best == best);
}

// The rows of one group that take part, as offsets into feats.
int list_rows(const IndexTable& t, int64_t g, int64_t slots, int32_t* rows) {
  int m = 0;
  for (int64_t j = 0; j < slots; ++j) {
    const int64_t row = t.at(g * t.k + j);
    rows[m] = static_cast<int32_t>(row);
    m += row >= 0 && row < t.n;
  }
  return m;
}

template <class T>
void max_scalar(const T* feats, int64_t channels, const int32_t* rows, int64_t m, int64_t begin, T* out,
                int32_t* arg) {
  const T* first = feats + rows[0] * channels;
  for (int64_t c = begin; c < channels; ++c) {
    out[c] = first[c];
    arg[c] = rows[0];
  }
  for (int64_t j = 1; j < m; ++j) {
    const T* v = feats + rows[j] * channels;
    const int32_t row = rows[j];
    for (int64_t c = begin; c < channels; ++c) {
      const bool take = better(v[c], out[c]);
      out[c] = take ? v[c] : out[c];
      arg[c] = take ? row : arg[c];
    }
  }
}

// R vectors of channels at a time stay in registers.
template <int R>
void max_block(const float* feats, int64_t channels, const int32_t* rows, int64_t m, float* out, int32_t* arg) {
  vfloat best[R];
  vint who[R];
  for (int r = 0; r < R; ++r) {
    best[r] = vload(feats + rows[0] * channels + r * kLanes);
    who[r] = vset(rows[0]);
  }
  for (int64_t j = 1; j < m; ++j) {
    const float* v = feats + rows[j] * channels;
    const vint row = vset(rows[j]);
    for (int r = 0; r < R; ++r) {
      const vfloat value = vload(v + r * kLanes);
      const vint take = ~(value <= best[r]) & (best[r] == best[r]);
      best[r] = take ? value : best[r];
      who[r] = take ? row : who[r];
    }
  }
  for (int r = 0; r < R; ++r) {
    vstore(out + r * kLanes, best[r]);
    vstore(arg + r * kLanes, who[r]);
  }
}

void max_rows(const float* feats, int64_t channels, const int32_t* rows, int64_t m, float* out, int32_t* arg) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) max_block<4>(feats + c, channels, rows, m, out + c, arg + c);
  for (; c + kLanes <= channels; c += kLanes) max_block<1>(feats + c, channels, rows, m, out + c, arg + c);
  if (c < channels) max_scalar(feats, channels, rows, m, c, out, arg);
}
void max_rows(const double* feats, int64_t channels, const int32_t* rows, int64_t m, double* out, int32_t* arg) {
  max_scalar(feats, channels, rows, m, 0, out, arg);
}

template <class T>
void group_max_range(const GroupMaxArgs<T>& a, int64_t begin, int64_t end) {
  const IndexTable& t = a.table;
  Scratch scratch;
  int32_t* rows = scratch.take<int32_t>(t.k + 1);
  for (int64_t g = begin; g < end; ++g) {
    const T* feats = a.feats + g / t.groups * t.n * a.channels;
    int64_t slots = t.k;
    if (a.count != nullptr && a.count[g] < slots) slots = a.count[g] > 0 ? a.count[g] : 0;
    const int m = list_rows(t, g, slots, rows);
    T* out = a.out + g * a.channels;
    int32_t* arg = a.arg + g * a.channels;
    if (m == 0) {
      std::memset(static_cast<void*>(out), 0, static_cast<size_t>(a.channels) * sizeof(T));
      std::memset(arg, 0xff, static_cast<size_t>(a.channels) * sizeof(int32_t));
    } else if (a.channels > 0) {
      max_rows(feats, a.channels, rows, m, out, arg);
    }
  }
}

template <class T>
void group_max(GroupMaxArgs<T>& a) {
  IndexTable& t = a.table;
  if (!check_table(t)) return;
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
