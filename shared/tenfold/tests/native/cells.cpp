#include <algorithm>
#include <map>

#include "harness.h"
#include "voxel_table/voxel_table.h"

using namespace tenfold;
using native::Random;

namespace {

using Cell = std::vector<int64_t>;

// Cells (b, z, y, x): near one another, now and then far away.
std::vector<int64_t> cells_of(Random& random, int64_t rows) {
  const int64_t reach = random.pick<int64_t>({2, 6, 1000000});
  std::vector<int64_t> coords;
  for (int64_t i = 0; i < 4 * rows; ++i) coords.push_back(i % 4 == 0 ? random.integer(1) : random.integer(reach) - reach / 3);
  return coords;
}

Cell at(const std::vector<int64_t>& coords, int64_t row) {
  return Cell(coords.begin() + 4 * row, coords.begin() + 4 * row + 4);
}

struct Built {
  std::vector<int64_t> keys, meta;
  std::vector<int32_t> rows, directory;
  VoxelTableView view;
};

void build(Built& b, const std::vector<int64_t>& coords) {
  const int64_t v = static_cast<int64_t>(coords.size() / 4);
  b.keys.resize(v);
  b.rows.resize(v);
  b.directory.resize(2 * v + 1);
  b.meta.resize(kTableMeta);
  VoxelTableArgs a{};
  a.coords64 = coords.data();
  a.v = v;
  a.keys = b.keys.data();
  a.rows = b.rows.data();
  a.directory = b.directory.data();
  a.meta = b.meta.data();
  KERNEL(voxel_table)(a);
  CHECK(a.bad_what == 0);
  b.view = {b.keys.data(), b.rows.data(), b.directory.data(), b.meta.data(), v};
}

// The lowest row of every cell.
std::map<Cell, int32_t> first_rows(const std::vector<int64_t>& coords) {
  std::map<Cell, int32_t> first;
  for (int64_t i = 0; i < static_cast<int64_t>(coords.size() / 4); ++i) first.emplace(at(coords, i), static_cast<int32_t>(i));
  return first;
}

}  // namespace

NATIVE_TEST(lookup) {
  const auto coords = cells_of(random, random.size(200));
  auto asked = cells_of(random, random.size(200));
  for (size_t i = 0; i + 4 <= asked.size() && i + 4 <= coords.size(); i += 8)
    std::copy(coords.begin() + i, coords.begin() + i + 4, asked.begin() + i);
  for (int64_t& c : asked)
    if (random.chance(0.02)) c = random.pick({INT64_MIN, INT64_MAX});
  Built table;
  build(table, coords);
  const int64_t m = static_cast<int64_t>(asked.size() / 4);
  std::vector<int32_t> out(m);
  LookupArgs a{};
  a.table = table.view;
  a.coords64 = asked.data();
  a.m = m;
  a.parallel = native::parallel(random);
  a.out = out.data();
  KERNEL(lookup)(a);
  const auto first = first_rows(coords);
  for (int64_t i = 0; i < m; ++i) {
    const auto found = first.find(at(asked, i));
    CHECK(out[i] == (found == first.end() ? -1 : found->second));
  }
}

NATIVE_TEST(voxel_query) {
  const auto coords = cells_of(random, random.size(100));
  const int64_t v = static_cast<int64_t>(coords.size() / 4), m = random.size(60), k = 1 + random.integer(8);
  auto asked = cells_of(random, m);
  for (size_t i = 0; i + 4 <= asked.size() && i + 4 <= coords.size(); i += 8)
    std::copy(coords.begin() + i, coords.begin() + i + 4, asked.begin() + i);
  const double special = random.chance(0.3) ? 0.03 : 0.0;
  const auto centres = random.floats<float>(3 * v, 2, special), query = random.floats<float>(3 * m, 2, special);
  Built table;
  build(table, coords);
  std::vector<int32_t> idx(m * k), count(m);
  VoxelQueryArgs<float> a{};
  a.table = table.view;
  a.xyz_vox = centres.data();
  a.coords64 = asked.data();
  a.xyz_query = query.data();
  a.m = m;
  for (int64_t& r : a.range) r = random.integer(2);
  a.radius = random.pick({0.5, 2.0, 100.0});
  a.k = k;
  a.parallel = native::parallel(random);
  a.idx = idx.data();
  a.count = count.data();
  KERNEL(voxel_query_f32)(a);
  const auto first = first_rows(coords);
  const float r = static_cast<float>(a.radius);
  for (int64_t q = 0; q < m; ++q) {
    std::vector<int32_t> hits;
    const Cell cell = at(asked, q);
    for (int64_t z = -a.range[0]; z <= a.range[0]; ++z)
      for (int64_t y = -a.range[1]; y <= a.range[1]; ++y)
        for (int64_t x = -a.range[2]; x <= a.range[2]; ++x) {
          const auto found = first.find({cell[0], cell[1] + z, cell[2] + y, cell[3] + x});
          if (found == first.end() || static_cast<int64_t>(hits.size()) == k) continue;
          float d[3];
          for (int i = 0; i < 3; ++i) d[i] = centres[3 * found->second + i] - query[3 * q + i];
          if ((d[0] * d[0] + d[1] * d[1]) + d[2] * d[2] <= r * r) hits.push_back(found->second);
        }
    CHECK(count[q] == static_cast<int32_t>(hits.size()));
    for (int64_t j = 0; j < k; ++j)
      CHECK(idx[q * k + j] == (hits.empty() ? 0 : hits[j < static_cast<int64_t>(hits.size()) ? j : 0]));
  }
}
