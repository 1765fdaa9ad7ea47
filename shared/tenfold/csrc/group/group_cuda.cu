// Grouping: a thread for each entry and channel, neighbours on neighbouring channels. The gradient of the maximum is a
// sum over the groups that chose a row, in ascending order, through the transposed table.
#include "group/group.h"

#include "common/device_chosen.h"
#include "common/device_table.h"

namespace tenfold::cuda {
namespace {

using namespace device;

template <class T>
struct Gather {
  GroupArgs<T> a;
  __device__ void operator()(int64_t i) const {
    const IndexTable& t = a.table;
    const int64_t entry = i / a.channels, c = i % a.channels, g = entry / t.k;
    const int64_t row = table_at(t, entry);
    T value = T(0);
    if (row >= 0 && row < t.n && (a.count == nullptr || a.count[g] > 0)) {
      value = a.feats[(g / t.groups * t.n + row) * a.channels + c];
      if constexpr (sizeof(T) > 2) {
        if (a.center != nullptr && c < 3) value = value - a.center[3 * g + c];
      }
    }
    a.out[i] = value;
  }
};

template <class T>
void group(GroupArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  if (!check_table(stream, a.table, a.count)) return;
  each("group", stream, a.table.entries() * a.channels, Gather<T>{a});
}

template <class T>
struct Maximum {
  GroupMaxArgs<T> a;
  __device__ void operator()(int64_t i) const {
    const IndexTable& t = a.table;
    const int64_t g = i / a.channels, c = i % a.channels;
    int64_t slots = t.k;
    if (a.count != nullptr && a.count[g] < slots) slots = a.count[g] > 0 ? a.count[g] : 0;
    const T* feats = a.feats + g / t.groups * t.n * a.channels + c;
    T best = T(0);
    int32_t who = -1;
    for (int64_t j = 0; j < slots; ++j) {
      const int64_t row = table_at(t, g * t.k + j);
      if (row < 0 || row >= t.n) continue;
      const T value = feats[row * a.channels];
      // NaN wins over every number, and the first NaN over later ones; equal values leave the first.
      if (who >= 0 && !((value > best || value != value) && best == best)) continue;
      best = value;
      who = static_cast<int32_t>(row);
    }
    a.out[i] = best;
    a.arg[i] = who;
  }
};

template <class T>
void group_max(GroupMaxArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  if (!check_table(stream, a.table, a.count)) return;
  each("group_max", stream, a.table.elements * a.table.groups * a.channels, Maximum<T>{a});
}

template <class T>
void group_max_backward(GroupMaxBackwardArgs<T>& a) {
  sum_chosen(*a.parallel.stream, a.grad, a.arg, a.elements, a.groups, a.n, a.channels, a.grad_feats);
}

}  // namespace

void group_b16(GroupArgs<uint16_t>& args) { group(args); }
void group_f32(GroupArgs<float>& args) { group(args); }
void group_f64(GroupArgs<double>& args) { group(args); }
void group_max_f32(GroupMaxArgs<float>& args) { group_max(args); }
void group_max_f64(GroupMaxArgs<double>& args) { group_max(args); }
void group_max_backward_f32(GroupMaxBackwardArgs<float>& args) { group_max_backward(args); }
void group_max_backward_f64(GroupMaxBackwardArgs<double>& args) { group_max_backward(args); }

}  // namespace tenfold::cuda
