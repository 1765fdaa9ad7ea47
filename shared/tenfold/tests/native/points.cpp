#include <algorithm>
#include <map>

#include "ball_query/ball_query.h"
#include "fps/fps.h"
#include "harness.h"
#include "knn/knn.h"
#include "scatter/scatter.h"
#include "voxelize/voxelize.h"

using namespace tenfold;

namespace {

bool usable(const float* p) { return std::isfinite(p[0]) && std::isfinite(p[1]) && std::isfinite(p[2]); }

float distance2(const float* a, const float* b) {
  const float x = a[0] - b[0], y = a[1] - b[1], z = a[2] - b[2];
  return (x * x + y * y) + z * z;
}

}  // namespace

NATIVE_TEST(ball_query) {
  const int64_t n = random.size(300), m = random.size(60), k = 1 + random.integer(20);
  const double special = random.chance(0.3) ? 0.03 : 0.0;
  const auto xyz = random.floats<float>(3 * n, 2, special), centers = random.floats<float>(3 * m, 2, special);
  const double radius = random.pick({1e-6, 0.3, 1.0, 1e6});
  std::vector<int32_t> idx(m * k), count(m);
  const BallElement element{0, n, 0, m, m};
  const BallScale scale{radius, 0.0, k, idx.data(), count.data()};
  BallQueryArgs<float> a{};
  a.xyz = xyz.data();
  a.centers = centers.data();
  a.elements = &element;
  a.num_elements = 1;
  a.scales = &scale;
  a.num_scales = 1;
  a.parallel = native::parallel(random);
  KERNEL(ball_query_f32)(a);
  const float r = static_cast<float>(radius);
  for (int64_t q = 0; q < m; ++q) {
    std::vector<int32_t> hits;
    for (int64_t i = 0; i < n && static_cast<int64_t>(hits.size()) < k; ++i)
      if (usable(&xyz[3 * i]) && usable(&centers[3 * q]) && distance2(&xyz[3 * i], &centers[3 * q]) < r * r)
        hits.push_back(static_cast<int32_t>(i));
    CHECK(count[q] == static_cast<int32_t>(hits.size()));
    for (int64_t j = 0; j < k; ++j) {
      const int32_t expected = hits.empty() ? 0 : hits[j < static_cast<int64_t>(hits.size()) ? j : 0];
      CHECK(idx[q * k + j] == expected);
    }
  }
}

NATIVE_TEST(knn) {
  const int64_t n = random.size(300), m = random.size(60), k = 1 + random.integer(19);
  const double special = random.chance(0.3) ? 0.03 : 0.0;
  const auto ref = random.floats<float>(3 * n, 2, special), query = random.floats<float>(3 * m, 2, special);
  std::vector<float> dist(m * k);
  std::vector<int32_t> idx(m * k);
  const KnnElement element{0, n, 0, m, m};
  KnnArgs<float> a{};
  a.ref = ref.data();
  a.query = query.data();
  a.elements = &element;
  a.num_elements = 1;
  a.k = k;
  a.dist2 = dist.data();
  a.idx = idx.data();
  a.parallel = native::parallel(random);
  KERNEL(knn_f32)(a);
  for (int64_t q = 0; q < m; ++q) {
    std::vector<std::pair<float, int32_t>> near;
    for (int64_t i = 0; i < n; ++i)
      if (usable(&ref[3 * i]) && usable(&query[3 * q])) {
        const float d = distance2(&ref[3 * i], &query[3 * q]);
        near.push_back({d, static_cast<int32_t>(i)});
      }
    std::sort(near.begin(), near.end());
    for (int64_t j = 0; j < k; ++j) {
      const bool there = j < static_cast<int64_t>(near.size()) && std::isfinite(near[j].first);
      if (j < static_cast<int64_t>(near.size()) && !there) continue;  // distances beyond float: not specified here
      CHECK(idx[q * k + j] == (there ? near[j].second : -1));
      CHECK(there ? dist[q * k + j] == near[j].first : std::isinf(dist[q * k + j]));
    }
  }
}

NATIVE_TEST(farthest_point_sample) {
  const int64_t n = 1 + random.size(300), m = random.size(80);
  const auto xyz = random.floats<float>(3 * n, 2);
  std::vector<int64_t> out(m);
  const FpsElement element{0, n, random.integer(n - 1), m, 0};
  FpsArgs<float> a{};
  a.xyz = xyz.data();
  a.columns = a.dims = 3;
  a.elements = &element;
  a.num_elements = 1;
  a.out = out.data();
  a.parallel = native::parallel(random);
  KERNEL(fps_f32)(a);
  std::vector<float> least(n, std::numeric_limits<float>::infinity());
  int64_t pick = element.start;
  for (int64_t s = 0; s < m; ++s) {
    CHECK(out[s] == pick);
    for (int64_t i = 0; i < n; ++i) least[i] = std::min(least[i], distance2(&xyz[3 * i], &xyz[3 * pick]));
    pick = std::max_element(least.begin(), least.end()) - least.begin();
  }
}

NATIVE_TEST(scatter) {
  const int64_t n = random.size(300), channels = random.size(20), num = random.size(30);
  const auto feats = random.floats<float>(n * channels, 10);
  std::vector<int32_t> index(n), arg(num * channels), count(num);
  for (int32_t& i : index)
    i = random.chance(0.03) ? random.pick({INT32_MIN, INT32_MAX, static_cast<int32_t>(num)})
                            : static_cast<int32_t>(random.integer(num)) - 1;
  std::vector<float> out(num * channels);
  ScatterArgs<float> a{};
  a.feats = feats.data();
  a.index32 = index.data();
  a.n = n;
  a.channels = channels;
  a.num = num;
  a.reduce = random.pick({Reduce::sum, Reduce::mean, Reduce::max, Reduce::min});
  a.out = out.data();
  const bool picks = a.reduce == Reduce::max || a.reduce == Reduce::min;
  a.arg = picks ? arg.data() : nullptr;
  a.count = count.data();
  a.parallel = native::parallel(random);
  KERNEL(scatter_f32)(a);
  for (int64_t s = 0; s < num; ++s)
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      int32_t best = -1, rows = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (index[i] != s) continue;
        const float v = feats[i * channels + c];
        sum += v;
        ++rows;
        const bool better = best < 0 || (a.reduce == Reduce::max ? v > feats[best * channels + c] : v < feats[best * channels + c]);
        if (better) best = static_cast<int32_t>(i);
      }
      CHECK(count[s] == rows);
      const double expected = picks ? (best < 0 ? 0.0 : feats[best * channels + c])
                              : a.reduce == Reduce::mean && rows > 0 ? sum / rows
                                                                     : sum;
      CHECK(native::close(static_cast<double>(out[s * channels + c]), expected, picks ? 0.0 : 1e-4));
      if (picks) CHECK(arg[s * channels + c] == best);
    }
}

namespace {

struct VoxelBuffers {
  std::vector<float> voxels;
  std::vector<int32_t> coords, num_points;
  int64_t rows = -1;  // as many as there are voxels
};

void allocate_voxels(VoxelArgs<float>& a, void* context) {
  auto* b = static_cast<VoxelBuffers*>(context);
  a.rows = b->rows < 0 ? a.count : b->rows;
  if (a.copy) b->voxels.resize(a.rows * a.max_points * a.channels);
  b->coords.resize(4 * a.rows);
  b->num_points.resize(a.rows);
  a.voxels = b->voxels.data();
  a.coords = b->coords.data();
  a.num_points = b->num_points.data();
}

}  // namespace

NATIVE_TEST(voxelize) {
  const int64_t n = random.size(300), channels = 3 + random.integer(2);
  const auto points = random.floats<float>(n * channels, 3, random.chance(0.3) ? 0.03 : 0.0);
  const int64_t cut = random.integer(n);
  const int64_t offsets[3] = {0, cut, n};
  std::vector<int32_t> owner(n);
  VoxelBuffers buffers;
  VoxelArgs<float> a{};
  a.points = points.data();
  a.n = n;
  a.channels = channels;
  a.offsets = offsets;
  a.batch = 2;
  for (int d = 0; d < 3; ++d) a.grid.lower[d] = -2, a.grid.size[d] = 0.5f, a.grid.cells[d] = 8;
  a.max_points = random.pick<int64_t>({1, 3, 50});
  a.max_voxels = random.pick<int64_t>({1, 10, 100000});
  a.copy = true;
  a.hash_multiplier = random.next() | 1;
  a.point2voxel = owner.data();
  a.allocate = allocate_voxels;
  a.context = &buffers;
  a.parallel = native::parallel(random);
  KERNEL(voxelize_f32)(a);
  std::map<std::vector<int64_t>, int32_t> found;
  std::vector<int32_t> stored;
  int64_t opened[2] = {0, 0}, dropped[3] = {0, 0, 0};
  for (int64_t i = 0; i < n; ++i) {
    const float* p = &points[i * channels];
    std::vector<int64_t> cell{i < cut ? 0 : 1};
    bool inside = usable(p);
    for (int d = 2; inside && d >= 0; --d) {
      const float c = std::floor((p[d] - a.grid.lower[d]) / a.grid.size[d]);
      inside = c >= 0 && c < 8;
      if (inside) cell.push_back(static_cast<int64_t>(c));
    }
    if (!inside) {
      ++dropped[0];
      CHECK(owner[i] == -1);
      continue;
    }
    auto at = found.find(cell);
    if (at == found.end()) {
      if (opened[cell[0]] == a.max_voxels) {
        ++dropped[1];
        CHECK(owner[i] == -1);
        continue;
      }
      ++opened[cell[0]];
      at = found.emplace(cell, static_cast<int32_t>(stored.size())).first;
      stored.push_back(0);
    }
    const int32_t v = at->second;
    CHECK(owner[i] == v);
    for (int d = 0; d < 4; ++d) CHECK(buffers.coords[4 * v + d] == cell[d]);
    if (stored[v] == a.max_points) {
      ++dropped[2];
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const float kept = buffers.voxels[(v * a.max_points + stored[v]) * channels + c];
      CHECK(kept == p[c] || (kept != kept && p[c] != p[c]));
    }
    ++stored[v];
  }
  CHECK(a.count == static_cast<int64_t>(stored.size()));
  for (int64_t v = 0; v < a.count; ++v) CHECK(buffers.num_points[v] == stored[v]);
  for (int d = 0; d < 3; ++d) CHECK(a.dropped[d] == dropped[d]);

  VoxelArgs<float> b = a;  // without copies, in fewer rows than there are voxels or in more
  VoxelBuffers some;
  std::vector<int32_t> some_owner(n);
  some.rows = random.integer(a.count + 2);
  b.copy = false;
  b.point2voxel = some_owner.data();
  b.context = &some;
  KERNEL(voxelize_f32)(b);
  CHECK(b.count == a.count);
  for (int64_t i = 0; i < n; ++i) CHECK(some_owner[i] == (owner[i] < some.rows ? owner[i] : -1));
  for (int64_t v = 0; v < some.rows; ++v) {
    CHECK(some.num_points[v] == (v < a.count ? stored[v] : 0));
    for (int d = 0; d < 4; ++d) CHECK(some.coords[4 * v + d] == (v < a.count ? buffers.coords[4 * v + d] : -1));
  }
}
