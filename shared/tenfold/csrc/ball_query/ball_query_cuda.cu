// Ball query: a warp for each centre walks the points in index order, 32 at a time; a ballot compacts the hits and ends
// the walk when k are found. O(M N) distance tests at worst.
#include "ball_query/ball_query.h"

#include "common/device_check.h"

namespace tenfold::cuda {
namespace {

using namespace device;

constexpr int kThreads = 256;

template <class T>
struct Query {
  const T* points;   // of the element
  const T* centers;
  int64_t point_count, center_count, center_rows;
  T square, min_square;
  int64_t k;
  int64_t base;      // of the indices
  int32_t* idx;
  int32_t* count;
};

template <class T>
__global__ void __launch_bounds__(kThreads) ball_query_kernel(Query<T> q) {
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarpLanes) + warp();
  if (row >= q.center_rows) return;  // whole warps
  int32_t* const out = q.idx + row * q.k;
  T c[3] = {0, 0, 0};
  bool live = row < q.center_count;
  for (int a = 0; live && a < 3; ++a) c[a] = q.centers[3 * row + a];
  live = live && is_finite(c[0]) && is_finite(c[1]) && is_finite(c[2]);
  int64_t found = 0;
  int32_t first = 0;
  for (int64_t begin = 0; live && begin < q.point_count && found < q.k; begin += kWarpLanes) {
    const int64_t i = begin + lane();
    bool hit = false;
    if (i < q.point_count) {
      const T d2 = squared_distance(q.points + 3 * i, c);
      hit = d2 < q.square && (!(q.min_square > 0) || d2 >= q.min_square || d2 == 0);
    }
    const unsigned hits = __ballot_sync(kAllLanes, hit);
    const int64_t place = found + __popc(hits & lanes_below());
    if (hit && place < q.k) out[place] = static_cast<int32_t>(q.base + i);
    if (found == 0 && hits != 0) first = static_cast<int32_t>(q.base + begin + (__ffs(static_cast<int>(hits)) - 1));
    found += __popc(hits);
  }
  if (found > q.k) found = q.k;
  for (int64_t j = found + lane(); j < q.k; j += kWarpLanes) out[j] = first;
  if (lane() == 0) q.count[row] = static_cast<int32_t>(found);
}

template <class T>
void ball_query(BallQueryArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  const bool fine = elements_finite(stream, a, [&a](const BallElement& rows, int which) -> InputRows<T> {
    if (which == 1) return {a.xyz + 3 * rows.point_begin, rows.point_count, 3};
    return {a.centers + 3 * rows.center_begin, rows.center_count, 3};
  });
  if (!fine) return;
  for (int64_t s = 0; s < a.num_scales; ++s) {
    const BallScale& scale = a.scales[s];
    const T r = static_cast<T>(scale.radius), r_min = static_cast<T>(scale.min_radius);
    for (int64_t e = 0; e < a.num_elements; ++e) {
      const BallElement& rows = a.elements[e];
      const Query<T> query{a.xyz + 3 * rows.point_begin, a.centers + 3 * rows.center_begin, rows.point_count,
                           rows.center_count, rows.center_rows, r * r, r_min * r_min, scale.k,
                           a.global_index ? rows.point_begin : 0, scale.idx + rows.center_begin * scale.k,
                           scale.count + rows.center_begin};
      TENFOLD_LAUNCH(ball_query_kernel<T>, blocks_for(rows.center_rows, kThreads / kWarpLanes), kThreads, stream, query);
    }
  }
}

}  // namespace

void ball_query_f32(BallQueryArgs<float>& args) { ball_query(args); }
void ball_query_f64(BallQueryArgs<double>& args) { ball_query(args); }

}  // namespace tenfold::cuda
