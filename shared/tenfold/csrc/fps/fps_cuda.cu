// Farthest points: a block for each batch element. Every pick lowers the distances to the nearest chosen point and
// finds the largest one by shuffles and one exchange through shared memory, the lowest index first. Distances stay in
// global memory (cached: 4 bytes a point), each read and written by one thread alone.
#include "fps/fps.h"

#include "common/device_check.h"

namespace tenfold::cuda {
namespace {

using namespace device;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kElements = 32;  // of a launch: they travel in its arguments

struct Elements {
  FpsElement e[kElements];
};

template <class T>
struct Farthest {
  T distance;
  int32_t row;
  __device__ bool before(const Farthest& o) const { return distance > o.distance || (distance == o.distance && row < o.row); }
};

template <class T>
__device__ __forceinline__ Farthest<T> warp_farthest(Farthest<T> mine) {
  for (int step = kWarpLanes / 2; step > 0; step /= 2) {
    const Farthest<T> other{__shfl_xor_sync(kAllLanes, mine.distance, step), __shfl_xor_sync(kAllLanes, mine.row, step)};
    if (other.before(mine)) mine = other;
  }
  return mine;
}

// The farthest of the block, given to every thread. `slot` alternates between picks, so that one barrier is enough.
template <class T>
__device__ __forceinline__ Farthest<T> block_farthest(Farthest<T> mine, int slot, T* distance, int32_t* row) {
  mine = warp_farthest(mine);
  if (lane() == 0) {
    distance[slot * kWarps + warp()] = mine.distance;
    row[slot * kWarps + warp()] = mine.row;
  }
  __syncthreads();
  const int at = slot * kWarps + lane() % kWarps;
  return warp_farthest(Farthest<T>{distance[at], row[at]});
}

template <class T>
__device__ __forceinline__ T minus_infinity() {
  return T(-1) / T(0.0f);
}

template <class T>
__global__ void __launch_bounds__(kThreads) fps_kernel(FpsArgs<T> a, Elements elements, int64_t most, T* scratch) {
  TENFOLD_SHARED(T, top, 2 * kWarps);
  TENFOLD_SHARED(int32_t, who, 2 * kWarps);
  const FpsElement& e = elements.e[blockIdx.x];
  const T* const xyz = a.xyz + e.begin * a.columns;
  T* const distance = scratch + blockIdx.x * most;
  // The first sample: `start`, or the first finite point where that is not finite.
  Farthest<T> best{minus_infinity<T>(), INT32_MAX};
  for (int64_t i = threadIdx.x; i < e.count; i += kThreads) {
    bool fine = true;
    for (int64_t d = 0; d < a.dims; ++d) fine = fine && is_finite(xyz[i * a.columns + d]);
    distance[i] = fine ? -minus_infinity<T>() : minus_infinity<T>();
    const Farthest<T> candidate{i == e.start ? T(2) : T(1), static_cast<int32_t>(i)};
    if (fine && candidate.before(best)) best = candidate;
  }
  best = block_farthest(best, 0, top, who);
  const bool none = best.distance == minus_infinity<T>();
  const int64_t base = a.global_index ? e.begin : 0;
  for (int64_t j = 0; j < e.samples; ++j) {
    const int64_t row = best.row;
    if (threadIdx.x == 0) a.out[e.place + j] = none ? -1 : base + row;
    if (none || j + 1 == e.samples) continue;
    best = Farthest<T>{minus_infinity<T>(), INT32_MAX};
    for (int64_t i = threadIdx.x; i < e.count; i += kThreads) {
      T near = distance[i];
      if (near > minus_infinity<T>()) {
        T d2 = T(0);
        for (int64_t d = 0; d < a.dims; ++d) {
          const T step = xyz[i * a.columns + d] - xyz[row * a.columns + d];
          d2 = d == 0 ? rn_mul(step, step) : rn_add(d2, rn_mul(step, step));
        }
        if (d2 < near) distance[i] = near = d2;
      }
      const Farthest<T> candidate{near, static_cast<int32_t>(i)};
      if (candidate.before(best)) best = candidate;
    }
    best = block_farthest(best, static_cast<int>((j + 1) & 1), top, who);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) fps_dist_kernel(FpsDistArgs<T> a, Elements elements, int64_t first,
                                                            T* scratch) {
  TENFOLD_SHARED(T, top, 2 * kWarps);
  TENFOLD_SHARED(int32_t, who, 2 * kWarps);
  const FpsElement& e = elements.e[blockIdx.x];
  T* const distance = scratch + blockIdx.x * a.n;
  for (int64_t i = threadIdx.x; i < e.count; i += kThreads) distance[i] = -minus_infinity<T>();
  int64_t row = e.start;
  for (int64_t j = 0; j < e.samples; ++j) {
    if (threadIdx.x == 0) a.out[e.place + j] = e.count == 0 ? -1 : row;
    if (e.count == 0) continue;
    const T* const from = a.dist + ((first + blockIdx.x) * a.n + row) * a.n;
    Farthest<T> best{minus_infinity<T>(), INT32_MAX};
    for (int64_t i = threadIdx.x; i < e.count; i += kThreads) {
      T near = distance[i];
      if (from[i] < near && from[i] > minus_infinity<T>()) distance[i] = near = from[i];
      const Farthest<T> candidate{near, static_cast<int32_t>(i)};
      if (candidate.before(best)) best = candidate;
    }
    row = block_farthest(best, static_cast<int>(j & 1), top, who).row;
  }
}

// Calls f(elements, their number, first) for groups that fit into the arguments of a launch.
template <class F>
void in_groups(const FpsElement* elements, int64_t count, F&& f) {
  for (int64_t first = 0; first < count; first += kElements) {
    const int64_t here = count - first < kElements ? count - first : kElements;
    Elements group{};
    for (int64_t i = 0; i < here; ++i) group.e[i] = elements[first + i];
    f(group, static_cast<unsigned>(here), first);
  }
}

template <class T>
void fps(FpsArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  a.bad_element = -1;
  int64_t most = 0;
  for (int64_t e = 0; e < a.num_elements; ++e) {
    const FpsElement& rows = a.elements[e];
    most = rows.count > most ? rows.count : most;
    if (!a.validate) continue;
    a.bad_row = first_not_finite(stream, a.xyz + rows.begin * a.columns, rows.count, a.columns, a.dims);
    if (a.bad_row < 0) continue;
    a.bad_element = e;
    return;
  }
  in_groups(a.elements, a.num_elements, [&](const Elements& group, unsigned count, int64_t) {
    T* scratch = stream.scratch<T>(most * count);
    TENFOLD_LAUNCH(fps_kernel<T>, count, kThreads, stream, a, group, most, scratch);
  });
}

template <class T>
struct BadDistance {
  const T* dist;
  int64_t n, count;
  __device__ bool operator()(int64_t i) const { return !is_finite(dist[i / count * n + i % count]); }
};

template <class T>
void fps_dist(FpsDistArgs<T>& a) {
  const Stream& stream = *a.parallel.stream;
  a.bad_element = -1;
  for (int64_t e = 0; a.validate && e < a.num_elements; ++e) {
    const int64_t count = a.elements[e].count;
    const int64_t bad = first_bad(stream, count * count, BadDistance<T>{a.dist + e * a.n * a.n, a.n, count});
    if (bad < 0) continue;
    a.bad_element = e;
    a.bad_row = bad / count;
    a.bad_column = bad % count;
    return;
  }
  in_groups(a.elements, a.num_elements, [&](const Elements& group, unsigned count, int64_t first) {
    T* scratch = stream.scratch<T>(a.n * count);
    TENFOLD_LAUNCH(fps_dist_kernel<T>, count, kThreads, stream, a, group, first, scratch);
  });
}

}  // namespace

void fps_f32(FpsArgs<float>& args) { fps(args); }
void fps_f64(FpsArgs<double>& args) { fps(args); }
void fps_dist_f32(FpsDistArgs<float>& args) { fps_dist(args); }
void fps_dist_f64(FpsDistArgs<double>& args) { fps_dist(args); }

}  // namespace tenfold::cuda
