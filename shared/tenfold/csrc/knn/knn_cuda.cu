// Nearest neighbours: a thread for each query keeps the k best in a sorted list, references pass through shared memory
// in tiles that the block reads together. O(M N) distance tests.
#include "knn/knn.h"

#include "common/device_check.h"

namespace tenfold::cuda {
namespace {

using namespace device;

constexpr int kThreads = 128;

template <class T>
struct Query {
  const T* ref;
  const T* query;
  int64_t ref_count, query_count, query_rows;
  int64_t k;
  int64_t base;
  bool root;
  T* dist2;
  int32_t* idx;
};

// kRoom: entries of the list, at least k.
template <class T, int kRoom>
__global__ void __launch_bounds__(kThreads) knn_kernel(Query<T> q) {
  TENFOLD_SHARED(T, tile, 3 * kThreads);
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int k = static_cast<int>(q.k);
  T p[3] = {0, 0, 0};
  bool live = row < q.query_count;
  for (int a = 0; live && a < 3; ++a) p[a] = q.query[3 * row + a];
  live = live && is_finite(p[0]) && is_finite(p[1]) && is_finite(p[2]);
  T best[kRoom];
  int32_t who[kRoom];
  const T infinity = T(1) / T(0.0f);
  for (int j = 0; j < kRoom; ++j) {
    best[j] = infinity;
    who[j] = -1;
  }
  T worst = infinity;
  for (int64_t begin = 0; begin < q.ref_count; begin += kThreads) {
    for (int a = 0; a < 3; ++a) {
      const int64_t at = 3 * begin + a * kThreads + threadIdx.x;
      if (at < 3 * q.ref_count) tile[a * kThreads + threadIdx.x] = q.ref[at];
    }
    __syncthreads();
    const int here = static_cast<int>(q.ref_count - begin < kThreads ? q.ref_count - begin : kThreads);
    for (int i = 0; live && i < here; ++i) {
      const T d2 = squared_distance(tile + 3 * i, p);
      if (!(d2 < worst)) continue;  // NaN, and ties: the lower index stays
      // Entries that are larger move up; an equal one keeps its place.
      T value = d2;
      int32_t index = static_cast<int32_t>(begin + i);
      for (int j = 0; j < kRoom; ++j) {
        if (j >= k) break;
        if (!(value < best[j] || (value == best[j] && index < who[j]))) continue;
        const T d = best[j];
        const int32_t w = who[j];
        best[j] = value;
        who[j] = index;
        value = d;
        index = w;
      }
      for (int j = 0; j < kRoom; ++j)
        if (j == k - 1) worst = best[j];
    }
    __syncthreads();
  }
  if (row >= q.query_rows) return;
  for (int j = 0; j < kRoom; ++j) {
    if (j >= k) break;
    const bool known = who[j] >= 0;
    q.dist2[row * q.k + j] = q.root && known ? static_cast<T>(sqrt(best[j])) : best[j];
    q.idx[row * q.k + j] = known ? static_cast<int32_t>(q.base + who[j]) : -1;
  }
}

template <class T>
void knn(KnnArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const bool fine = elements_finite(stream, a, [&a](const KnnElement& rows, int which) -> InputRows<T> {
    if (which == 1) return {a.ref + 3 * rows.ref_begin, rows.ref_count, 3};
    return {a.query + 3 * rows.query_begin, rows.query_count, 3};
  });
  if (!fine) return;
  for (int64_t e = 0; e < a.num_elements; ++e) {
    const KnnElement& rows = a.elements[e];
    const Query<T> query{a.ref + 3 * rows.ref_begin, a.query + 3 * rows.query_begin, rows.ref_count, rows.query_count,
                         rows.query_rows, a.k, a.global_index ? rows.ref_begin : 0, a.root,
                         a.dist2 + rows.query_begin * a.k, a.idx + rows.query_begin * a.k};
    const unsigned grid = blocks_for(rows.query_rows, kThreads);
    if (a.k <= 3)
      launch_kernel("knn_kernel<3>", knn_kernel<T, 3>, grid, kThreads, stream, query);
    else if (a.k <= 16)
      launch_kernel("knn_kernel<16>", knn_kernel<T, 16>, grid, kThreads, stream, query);
    else
      launch_kernel("knn_kernel<64>", knn_kernel<T, kMostNeighbours>, grid, kThreads, stream, query);
  }
}

}  // namespace

void knn_f32(KnnArgs<float>& args) { knn(args); }
void knn_f64(KnnArgs<double>& args) { knn(args); }

}  // namespace tenfold::cuda
