#include "group/group.h"
#include "harness.h"
#include "interpolate/interpolate.h"

using namespace tenfold;
using native::Random;

namespace {

// A table of rows, some of them none or far outside.
struct Table {
  std::vector<int32_t> narrow;
  std::vector<int64_t> wide;
  std::vector<int32_t> count;
  IndexTable view{};

  Table(Random& random, int64_t k) {
    view.elements = 1 + random.integer(1);
    view.groups = random.size(40);
    view.k = k;
    view.n = random.size(60);
    const int64_t entries = view.entries();
    for (int64_t e = 0; e < entries; ++e) {
      const int32_t row = static_cast<int32_t>(random.integer(view.n)) - 1;
      narrow.push_back(random.chance(0.03) ? random.pick({INT32_MIN, INT32_MAX, static_cast<int32_t>(view.n)}) : row);
      wide.push_back(narrow.back());
    }
    for (int64_t g = 0; g < groups(); ++g) count.push_back(static_cast<int32_t>(random.integer(k + 2)) - 1);
    if (random.chance(0.5))
      view.idx32 = narrow.data();
    else
      view.idx64 = wide.data();
    if (entries == 0) view.idx32 = narrow.data();
  }
  int64_t groups() const { return view.elements * view.groups; }
  // Row of the flattened features that an entry names, or -1.
  int64_t row(int64_t entry) const {
    const int64_t i = narrow[entry];
    return i >= 0 && i < view.n ? entry / (view.groups * view.k) * view.n + i : -1;
  }
};

bool same(float a, float b) { return a == b || (a != a && b != b); }

}  // namespace

NATIVE_TEST(group) {
  Table t(random, random.size(9));
  const int64_t channels = random.chance(0.3) ? 32 : 3 + random.size(40);
  const auto feats = random.floats<float>(t.view.elements * t.view.n * channels, 4, random.chance(0.3) ? 0.03 : 0.0);
  const auto center = random.floats<float>(3 * t.groups(), 4);
  const bool counted = random.chance(0.5), centred = random.chance(0.5);
  const int64_t size = t.view.entries() * channels;
  std::vector<float> room(size + 16);
  const auto misplaced = reinterpret_cast<uintptr_t>(room.data()) / sizeof(float) % 16;
  float* const out = room.data() + (random.chance(0.7) ? (16 - misplaced) % 16 : 0);  // aligned to 64 bytes, or not
  GroupArgs<float> a{};
  a.stream_from = random.chance(0.5);
  a.feats = feats.data();
  a.channels = channels;
  a.table = t.view;
  a.count = counted ? t.count.data() : nullptr;
  a.center = centred ? center.data() : nullptr;
  a.parallel = native::parallel(random);
  a.out = out;
  KERNEL(group_f32)(a);
  std::vector<uint16_t> half(feats.size()), half_out(size);
  for (uint16_t& h : half) h = static_cast<uint16_t>(random.next());
  GroupArgs<uint16_t> b{};
  b.feats = half.data();
  b.channels = channels;
  b.table = t.view;
  b.count = a.count;
  b.out = half_out.data();
  KERNEL(group_b16)(b);
  for (int64_t e = 0; e < t.view.entries(); ++e) {
    const int64_t g = e / t.view.k;
    const int64_t row = counted && t.count[g] <= 0 ? -1 : t.row(e);
    for (int64_t c = 0; c < channels; ++c) {
      float expected = row < 0 ? 0 : feats[row * channels + c];
      if (row >= 0 && centred && c < 3) expected -= center[3 * g + c];
      CHECK(same(out[e * channels + c], expected));
      CHECK(half_out[e * channels + c] == (row < 0 ? 0 : half[row * channels + c]));
    }
  }
  // The first entry outside is found, unless nothing looks at its group.
  a.table.validate = true;
  KERNEL(group_f32)(a);
  int64_t bad = -1;
  for (int64_t e = t.view.entries() - 1; e >= 0; --e)
    if ((t.narrow[e] < -1 || t.narrow[e] >= t.view.n) && !(counted && t.count[e / t.view.k] <= 0)) bad = e;
  CHECK(a.table.bad_entry == bad);
}

NATIVE_TEST(group_max) {
  Table t(random, random.size(9));
  const int64_t channels = random.size(80), n = t.view.n;
  const auto feats = random.floats<float>(t.view.elements * n * channels, 4, random.chance(0.3) ? 0.03 : 0.0);
  const bool counted = random.chance(0.5);
  std::vector<float> out(t.groups() * channels);
  std::vector<int32_t> arg(out.size());
  GroupMaxArgs<float> a{};
  a.feats = feats.data();
  a.channels = channels;
  a.table = t.view;
  a.count = counted ? t.count.data() : nullptr;
  a.parallel = native::parallel(random);
  a.out = out.data();
  a.arg = arg.data();
  KERNEL(group_max_f32)(a);
  for (int64_t g = 0; g < t.groups(); ++g) {
    const int64_t first = g / t.view.groups * n;
    for (int64_t c = 0; c < channels; ++c) {
      int64_t best = -1;
      for (int64_t j = 0; j < t.view.k && (!counted || j < t.count[g]); ++j) {
        const int64_t row = t.row(g * t.view.k + j);
        if (row < 0) continue;
        const float v = feats[row * channels + c], top = best < 0 ? 0 : feats[best * channels + c];
        if (best < 0 || v > top || (v != v && top == top)) best = row;
      }
      CHECK(same(out[g * channels + c], best < 0 ? 0 : feats[best * channels + c]));
      CHECK(arg[g * channels + c] == (best < 0 ? -1 : static_cast<int32_t>(best - first)));
    }
  }
  const auto grad = random.floats<float>(out.size(), 1);
  std::vector<float> grad_feats(feats.size());
  GroupMaxBackwardArgs<float> b{};
  b.grad = grad.data();
  b.arg = arg.data();
  b.elements = t.view.elements;
  b.groups = t.view.groups;
  b.n = n;
  b.channels = channels;
  b.parallel = a.parallel;
  b.grad_feats = grad_feats.data();
  KERNEL(group_max_backward_f32)(b);
  std::vector<float> expected(feats.size(), 0.f);
  for (int64_t g = 0; g < t.groups(); ++g)
    for (int64_t c = 0; c < channels; ++c)
      if (arg[g * channels + c] >= 0)
        expected[(g / t.view.groups * n + arg[g * channels + c]) * channels + c] += grad[g * channels + c];
  for (size_t i = 0; i < expected.size(); ++i) CHECK(grad_feats[i] == expected[i]);
}

NATIVE_TEST(interpolate) {
  Table t(random, random.chance(0.5) ? 3 : random.size(6));
  const int64_t channels = random.size(40);
  const auto feats = random.floats<float>(t.view.elements * t.view.n * channels, 4);
  const auto weight = random.floats<float>(t.view.entries(), 1);
  std::vector<float> out(t.groups() * channels);
  InterpolateArgs<float> a{};
  a.feats = feats.data();
  a.channels = channels;
  a.table = t.view;
  a.weight = weight.data();
  a.parallel = native::parallel(random);
  a.out = out.data();
  KERNEL(interpolate_f32)(a);
  const auto grad = random.floats<float>(out.size(), 1);
  std::vector<float> grad_feats(feats.size()), grad_weight(weight.size());
  InterpolateBackwardArgs<float> b{};
  b.grad = grad.data();
  b.feats = feats.data();
  b.channels = channels;
  b.table = t.view;
  b.weight = weight.data();
  b.parallel = a.parallel;
  b.grad_feats = grad_feats.data();
  b.grad_weight = grad_weight.data();
  KERNEL(interpolate_backward_f32)(b);
  std::vector<double> sum(out.size(), 0.0), to_feats(feats.size(), 0.0), to_weight(weight.size(), 0.0);
  for (int64_t e = 0; e < t.view.entries(); ++e) {
    const int64_t row = t.row(e), g = e / t.view.k;
    for (int64_t c = 0; row >= 0 && c < channels; ++c) {
      sum[g * channels + c] += double{weight[e]} * feats[row * channels + c];
      to_feats[row * channels + c] += double{weight[e]} * grad[g * channels + c];
      to_weight[e] += double{feats[row * channels + c]} * grad[g * channels + c];
    }
  }
  for (size_t i = 0; i < sum.size(); ++i) CHECK(native::close(static_cast<double>(out[i]), sum[i], 1e-4));
  for (size_t i = 0; i < to_feats.size(); ++i) CHECK(native::close(static_cast<double>(grad_feats[i]), to_feats[i], 1e-4));
  for (size_t i = 0; i < to_weight.size(); ++i)
    CHECK(native::close(static_cast<double>(grad_weight[i]), to_weight[i], 1e-4));
}
