#include <algorithm>
#include <array>
#include <map>

#include "harness.h"
#include "sparse_conv/conv.h"
#include "sparse_conv/rulebook.h"

using namespace tenfold;
using native::Random;

namespace {

using Cell = std::array<int64_t, 4>;

struct Scene {
  SiteGrid grid;
  std::vector<int32_t> coords;
  std::map<Cell, int32_t> row;  // the lowest row of a cell
};

Scene draw_scene(Random& random, bool clean) {
  Scene s{{1 + random.integer(2), {1 + random.integer(5), 1 + random.integer(5), 1 + random.integer(80)}}, {}, {}};
  const int64_t n = random.size(200);
  for (int64_t i = 0; i < n; ++i) {
    Cell c{random.integer(s.grid.batch - 1), random.integer(s.grid.shape[0] - 1), random.integer(s.grid.shape[1] - 1),
           random.integer(s.grid.shape[2] - 1)};
    if (clean && s.row.count(c) != 0) continue;
    if (!clean && random.chance(0.05)) c[random.integer(3)] = random.pick<int64_t>({-1, 1 << 20, INT32_MIN, INT32_MAX});
    const auto at = static_cast<int32_t>(s.coords.size() / 4);
    bool inside = c[0] >= 0 && c[0] < s.grid.batch;
    for (int d = 0; d < 3; ++d) inside = inside && c[d + 1] >= 0 && c[d + 1] < s.grid.shape[d];
    if (inside) s.row.emplace(c, at);
    for (int64_t v : c) s.coords.push_back(static_cast<int32_t>(v));
  }
  return s;
}

int32_t find(const Scene& s, const Cell& c) {
  const auto at = s.row.find(c);
  return at == s.row.end() ? -1 : at->second;
}

}  // namespace

NATIVE_TEST(rulebook_submanifold) {
  const bool clean = random.chance(0.7);
  const Scene s = draw_scene(random, clean);
  SubmanifoldArgs a{};
  a.coords = s.coords.data();
  a.n = static_cast<int64_t>(s.coords.size() / 4);
  a.grid = s.grid;
  for (int d = 0; d < 3; ++d) {
    a.geometry.kernel[d] = 1 + random.integer(3);
    a.geometry.dilation[d] = 1 + random.integer(1);
  }
  const int64_t* k = a.geometry.kernel;
  std::vector<int32_t> table(static_cast<size_t>(k[0] * k[1] * k[2] * a.n));
  a.table = table.data();
  a.validate = clean;
  a.parallel = native::parallel(random);
  KERNEL(rulebook_submanifold)(a);
  CHECK(!clean || a.fault == SiteFault::none);
  if (!clean) return;  // equal sites: only that nothing breaks
  for (int64_t o = 0; o < k[0] * k[1] * k[2]; ++o) {
    const int64_t step[3] = {o / (k[1] * k[2]), o / k[2] % k[1], o % k[2]};
    for (int64_t i = 0; i < a.n; ++i) {
      Cell c{s.coords[4 * i], 0, 0, 0};
      for (int d = 0; d < 3; ++d)
        c[d + 1] = s.coords[4 * i + d + 1] + (step[d] - (k[d] - 1) / 2) * a.geometry.dilation[d];
      CHECK(table[o * a.n + i] == find(s, c));
    }
  }
}

NATIVE_TEST(rulebook_strided) {
  const bool clean = random.chance(0.7);
  const Scene s = draw_scene(random, clean);
  StridedArgs a{};
  a.coords = s.coords.data();
  a.n = static_cast<int64_t>(s.coords.size() / 4);
  a.grid = a.out_grid = s.grid;
  ConvGeometry& g = a.geometry;
  for (int d = 0; d < 3; ++d) {
    g.kernel[d] = 1 + random.integer(2);
    g.stride[d] = 1 + random.integer(2);
    g.padding[d] = random.integer(2);
    g.dilation[d] = 1 + random.integer(1);
    const int64_t span = s.grid.shape[d] + 2 * g.padding[d] - g.dilation[d] * (g.kernel[d] - 1) - 1;
    if (span < 0) return;
    a.out_grid.shape[d] = span / g.stride[d] + 1;
  }
  a.validate = clean;
  a.parallel = native::parallel(random);
  KERNEL(rulebook_strided_count)(a);
  CHECK(!clean || a.fault == SiteFault::none);
  std::vector<uint64_t> key(a.pairs + 1), payload(a.pairs + 1);
  std::vector<int32_t> order(a.pairs);
  a.key = key.data();
  a.payload = payload.data();
  a.order = order.data();
  KERNEL(rulebook_strided_sites)(a);
  const int64_t volume = g.kernel[0] * g.kernel[1] * g.kernel[2];
  std::vector<int32_t> out(4 * a.out_rows), table(volume * a.out_rows);
  a.rows = a.out_rows;
  a.out_coords = out.data();
  a.table = table.data();
  KERNEL(rulebook_strided_fill)(a);
  std::map<Cell, std::vector<int32_t>> expected;
  for (const auto& [c, row] : s.row)
    for (int64_t o = 0; o < volume; ++o) {
      const int64_t step[3] = {o / (g.kernel[1] * g.kernel[2]), o / g.kernel[2] % g.kernel[1], o % g.kernel[2]};
      Cell reached{c[0], 0, 0, 0};
      bool fits = true;
      for (int d = 0; d < 3; ++d) {
        const int64_t far = c[d + 1] + g.padding[d] - step[d] * g.dilation[d];
        fits = fits && far >= 0 && far % g.stride[d] == 0 && far / g.stride[d] < a.out_grid.shape[d];
        reached[d + 1] = far / g.stride[d];
      }
      if (!fits) continue;
      auto& column = expected[reached];
      column.resize(volume, -1);
      column[o] = row;
    }
  CHECK(static_cast<int64_t>(expected.size()) == a.out_rows);
  int64_t row = 0;
  for (const auto& [c, column] : expected) {  // ordered like (b, z, y, x)
    for (int d = 0; d < 4; ++d) CHECK(out[4 * row + d] == c[d]);
    for (int64_t o = 0; o < volume; ++o) CHECK(table[o * a.out_rows + row] == column[o]);
    ++row;
  }
  const int64_t rows = random.integer(a.out_rows + 2);  // the first sites alone, or room behind the last
  std::vector<int32_t> some(4 * rows, -1), columns(volume * rows);
  a.rows = rows;
  a.out_coords = some.data();
  a.table = columns.data();
  KERNEL(rulebook_strided_fill)(a);
  for (int64_t r = 0; r < rows; ++r) {
    for (int d = 0; d < 4; ++d) CHECK(some[4 * r + d] == (r < a.out_rows ? out[4 * r + d] : -1));
    for (int64_t o = 0; o < volume; ++o)
      CHECK(columns[o * rows + r] == (r < a.out_rows ? table[o * a.out_rows + r] : -1));
  }
  InvertArgs v{table.data(), volume, a.out_rows, a.n, a.parallel, nullptr, false};
  std::vector<int32_t> inverse(volume * a.n);
  v.inverse = inverse.data();
  KERNEL(rulebook_invert)(v);
  CHECK(!v.bad);
  for (int64_t o = 0; o < volume; ++o)
    for (int64_t r = 0; r < a.out_rows; ++r)
      if (table[o * a.out_rows + r] >= 0) CHECK(inverse[o * a.n + table[o * a.out_rows + r]] == r);
}

template <class T, class Conv, class Weight, class Pool>
static void convolution(Random& random, Conv conv, Weight weight_gradient, Pool pool) {
  const int64_t rows = random.size(150), out_rows = random.size(150), offsets = 1 + random.integer(8);
  const int64_t c_in = random.pick<int64_t>({1, 4, 16, 33}), c_out = random.pick<int64_t>({1, 7, 16, 40});
  const double tolerance = sizeof(T) == 4 ? 1e-4 : 1e-11;
  std::vector<int32_t> table(offsets * out_rows);
  for (int32_t& t : table) t = static_cast<int32_t>(random.integer(rows)) - 1;
  const bool broken = !table.empty() && random.chance(0.1);
  if (broken) table[random.integer(static_cast<int64_t>(table.size()) - 1)] = random.pick({static_cast<int32_t>(rows), INT32_MAX});
  const auto x = random.floats<T>(rows * c_in, 1), w = random.floats<T>(c_out * offsets * c_in, 1);
  const auto b = random.floats<T>(c_out, 1), g = random.floats<T>(out_rows * c_out, 1);
  std::vector<T> out(out_rows * c_out), gw(w.size());
  SparseConvArgs<T> a{};
  a.features = x.data();
  a.weight = w.data();
  a.bias = b.data();
  a.table = table.data();
  a.in_rows = rows;
  a.out_rows = out_rows;
  a.c_in = c_in;
  a.c_out = c_out;
  a.offsets = offsets;
  a.parallel = native::parallel(random);
  a.out = out.data();
  conv(a);
  SparseConvWeightArgs<T> d{x.data(), g.data(), table.data(), rows, out_rows, c_in, c_out, offsets, a.parallel, gw.data(), false};
  weight_gradient(d);
  std::vector<T> most(out_rows * c_in);
  std::vector<int32_t> arg(most.size());
  SparseMaxPoolArgs<T> p{x.data(), table.data(), rows, out_rows, c_in, offsets, a.parallel, most.data(), arg.data(), false};
  pool(p);
  CHECK(a.bad == broken && d.bad == broken && p.bad == broken);
  if (broken) return;
  std::vector<double> sums(w.size(), 0.0);
  for (int64_t o = 0; o < out_rows; ++o) {
    for (int64_t co = 0; co < c_out; ++co) {
      double sum = b[co];
      for (int64_t k = 0; k < offsets; ++k) {
        const int32_t row = table[k * out_rows + o];
        for (int64_t c = 0; row >= 0 && c < c_in; ++c) {
          sum += static_cast<double>(w[(co * offsets + k) * c_in + c]) * x[row * c_in + c];
          sums[(co * offsets + k) * c_in + c] += static_cast<double>(g[o * c_out + co]) * x[row * c_in + c];
        }
      }
      CHECK(native::close(static_cast<double>(out[o * c_out + co]), sum, tolerance));
    }
    for (int64_t c = 0; c < c_in; ++c) {
      int32_t best = -1;
      for (int64_t k = 0; k < offsets; ++k) {
        const int32_t row = table[k * out_rows + o];
        if (row >= 0 && (best < 0 || x[row * c_in + c] > x[best * c_in + c])) best = row;
      }
      CHECK(arg[o * c_in + c] == best);
      CHECK(most[o * c_in + c] == (best < 0 ? T(0) : x[best * c_in + c]));
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) CHECK(native::close(static_cast<double>(gw[i]), sums[i], 10 * tolerance));
}

NATIVE_TEST(sparse_conv) {
  if (random.chance(0.5)) {
    convolution<float>(random, KERNEL(sparse_conv_f32), KERNEL(sparse_conv_weight_f32), KERNEL(sparse_max_pool_f32));
  } else {
    convolution<double>(random, KERNEL(sparse_conv_f64), KERNEL(sparse_conv_weight_f64), KERNEL(sparse_max_pool_f64));
  }
}
