#include "peaks/peaks.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/arena.h"
#include "common/radix.h"
#include "common/vec.h"

TENFOLD_BEGIN

namespace {

constexpr int64_t kPiece = int64_t{1} << 18;  // entries of a task

// ---- the mask of all peaks -------------------------------------------------------------------------------

// Rows are copied with -inf on both sides, so that one loop without borders compares every window entry.
template <class T>
void mark_plane(const T* plane, int64_t height, int64_t width, int kernel, uint8_t* out) {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  const int64_t reach = kernel / 2;
  const int64_t pitch = width + 2 * reach;
  Scratch scratch;
  T* ring = scratch.take<T>(kernel * pitch);
  Flag* keep = scratch.take<Flag>(width);
  const auto row_of = [&](int64_t y) { return ring + y % kernel * pitch; };
  for (int64_t i = 0; i < kernel * pitch; ++i) ring[i] = -std::numeric_limits<T>::infinity();
  const auto copy_row = [&](int64_t y) {
    std::memcpy(row_of(y) + reach, plane + y * width, static_cast<size_t>(width) * sizeof(T));
  };
  for (int64_t y = 0; y < reach && y < height; ++y) copy_row(y);
  for (int64_t y = 0; y < height; ++y) {
    if (y + reach < height) copy_row(y + reach);
    const T* center = row_of(y) + reach;
    for (int64_t x = 0; x < width; ++x) keep[x] = 1;
    const int64_t last = y + reach < height ? y + reach : height - 1;
    for (int64_t wy = y < reach ? 0 : y - reach; wy <= last; ++wy) {
      const T* row = row_of(wy);
      for (int64_t dx = 0; dx < kernel; ++dx)
        for (int64_t x = 0; x < width; ++x) keep[x] &= static_cast<Flag>(row[x + dx] <= center[x]);
    }
    for (int64_t x = 0; x < width; ++x) out[y * width + x] = static_cast<uint8_t>(keep[x]);
  }
}

template <class T>
void peaks_at(PeaksAtArgs<T>& a) {
  const int64_t area = a.height * a.width;
  if (a.planes == 0 || area == 0) return;
  const int64_t piece = area < kPiece ? kPiece / area : 1;
  parallel_ranges(a.parallel, a.planes, piece, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) mark_plane(a.heat + p * area, a.height, a.width, a.kernel, a.out + p * area);
  });
}

// ---- the k best ------------------------------------------------------------------------------------------

using OrderBits = uint64_t;

struct Peak {
  OrderBits bits;  // of the score
  int64_t place;
  bool operator<(const Peak& other) const {  // the better one first
    return bits != other.bits ? bits > other.bits : place < other.place;
  }
};

// The best k of the peaks offered so far, and the score below which no further one can get among them. Peaks
// come in ascending place, so one that equals the k-th loses.
template <class T>
class Best {
 public:
  Best(Scratch& scratch, int64_t k, T threshold)
      : k_(k), room_(2 * k < kLeast ? kLeast : 2 * k), peaks_(scratch.take<Peak>(room_)), bar_(threshold) {}

  T bar() const { return bar_; }

  void offer(T score, int64_t place) {
    peaks_[size_++] = {float_order_bits(score), place};
    if (size_ == room_) shrink();
  }

  // Sorts what is left and returns how many there are.
  int64_t finish() {
    std::sort(peaks_, peaks_ + size_);
    return size_ < k_ ? size_ : k_;
  }
  const Peak& operator[](int64_t i) const { return peaks_[i]; }

 private:
  static constexpr int64_t kLeast = 128;

  void shrink() {
    if (k_ == 0) {
      size_ = 0;
      return;
    }
    std::nth_element(peaks_, peaks_ + k_ - 1, peaks_ + size_);
    size_ = k_;
    bar_ = score_of(peaks_[k_ - 1].bits);
  }

  static T score_of(OrderBits bits) {
    T score;
    if constexpr (sizeof(T) == 4) {
      const uint32_t b = static_cast<uint32_t>(bits);
      const uint32_t u = b & 0x80000000u ? b & 0x7fffffffu : ~b;
      std::memcpy(&score, &u, sizeof score);
    } else {
      const uint64_t u = bits >> 63 ? bits & ~(uint64_t{1} << 63) : ~bits;
      std::memcpy(&score, &u, sizeof score);
    }
    return score;
  }

  int64_t k_, room_;
  Peak* peaks_;
  T bar_;
  int64_t size_ = 0;
};

struct Plane {
  int64_t height, width, reach;
};

template <class T>
bool is_peak(const T* plane, const Plane& p, int64_t y, int64_t x) {
  const int64_t y0 = y < p.reach ? 0 : y - p.reach, y1 = y + p.reach < p.height ? y + p.reach : p.height - 1;
  const int64_t x0 = x < p.reach ? 0 : x - p.reach, x1 = x + p.reach < p.width ? x + p.reach : p.width - 1;
  const T value = plane[y * p.width + x];
  bool ok = true;
  for (int64_t wy = y0; wy <= y1; ++wy)
    for (int64_t wx = x0; wx <= x1; ++wx) ok &= plane[wy * p.width + wx] <= value;
  return ok;
}

// Candidates x .. x + 15 whose windows do not meet a side border.
lane_mask window_test(const float* plane, const Plane& p, int64_t y, int64_t x, vfloat value, lane_mask m) {
  const int64_t y0 = y < p.reach ? 0 : y - p.reach, y1 = y + p.reach < p.height ? y + p.reach : p.height - 1;
  for (int64_t wy = y0; wy <= y1; ++wy) {
    const float* row = plane + wy * p.width + x;
    for (int64_t dx = -p.reach; dx <= p.reach; ++dx) m &= vle(vload(row + dx), value);
    if (m == 0) break;
  }
  return m;
}

// Offers the peaks of columns [begin, end) of a row, one by one.
template <class T>
void scan_scalar(const T* plane, const Plane& p, int64_t y, int64_t begin, int64_t end, int64_t base, Best<T>& best) {
  const T* row = plane + y * p.width;
  for (int64_t x = begin; x < end; ++x)
    if (row[x] > best.bar() && is_peak(plane, p, y, x)) best.offer(row[x], base + y * p.width + x);
}

void scan_row(const double* plane, const Plane& p, int64_t y, int64_t base, Best<double>& best) {
  scan_scalar(plane, p, y, 0, p.width, base, best);
}

void scan_row(const float* plane, const Plane& p, int64_t y, int64_t base, Best<float>& best) {
  const float* row = plane + y * p.width;
  constexpr int64_t kUnroll = 4;
  int64_t x = 0;
  while (x + kLanes <= p.width) {
    const vfloat bar = vset(best.bar());
    if (x + kUnroll * kLanes <= p.width) {  // nearly always there is nothing
      lane_mask any = 0;
      for (int64_t u = 0; u < kUnroll; ++u) any |= vgt(vload(row + x + u * kLanes), bar);
      if (any == 0) {
        x += kUnroll * kLanes;
        continue;
      }
    }
    const int64_t stop = x + kUnroll * kLanes <= p.width ? x + kUnroll * kLanes : x + kLanes;
    for (; x < stop; x += kLanes) {
      const vfloat value = vload(row + x);
      lane_mask m = vgt(value, vset(best.bar()));
      if (m == 0) continue;
      if (x < p.reach || x + kLanes + p.reach > p.width) {
        scan_scalar(plane, p, y, x, x + kLanes, base, best);
        continue;
      }
      m = window_test(plane, p, y, x, value, m);
      for (; m != 0; m &= m - 1) {
        const int64_t at = x + __builtin_ctz(m);
        if (row[at] > best.bar()) best.offer(row[at], base + y * p.width + at);
      }
    }
  }
  scan_scalar(plane, p, y, x, p.width, base, best);
}

template <class T>
void topk_peaks(TopkPeaksArgs<T>& a) {
  const int64_t area = a.height * a.width;
  const int64_t size = a.planes * area;
  const Plane plane{a.height, a.width, a.kernel / 2};
  const T threshold = static_cast<T>(a.threshold);
  // The k best of all are among the k best of each part, whatever the parts: one thread takes a group whole.
  int64_t parts = a.parallel.threads > 1 && a.k > 0 ? (size + kPiece - 1) / kPiece : 1;
  parts = parts > a.planes ? a.planes : parts;
  parts = parts < 1 ? 1 : parts;
  Scratch scratch;
  Peak* found = scratch.take<Peak>(parts > 1 ? a.groups * parts * a.k : 0);
  int64_t* number = scratch.take<int64_t>(parts > 1 ? a.groups * parts : 0);
  const auto put = [&](int64_t group, const auto& peaks, int64_t n) {
    for (int64_t i = 0; i < a.k; ++i) {
      const int64_t place = i < n ? peaks[i].place : -1;
      a.place[group * a.k + i] = place;
      a.scores[group * a.k + i] = i < n ? a.heat[group * size + place] : -std::numeric_limits<T>::infinity();
    }
  };
  parallel_tasks(a.parallel, a.groups * parts, [&](int64_t task) {
    const int64_t group = task / parts, part = task % parts;
    Scratch own;
    Best<T> best(own, a.k, threshold);
    for (int64_t p = a.planes * part / parts; p < a.planes * (part + 1) / parts && a.k > 0; ++p)
      for (int64_t y = 0; y < a.height; ++y)
        scan_row(a.heat + group * size + p * area, plane, y, p * area, best);
    const int64_t n = best.finish();
    if (parts == 1) return put(group, best, n);
    number[task] = n;
    for (int64_t i = 0; i < n; ++i) found[task * a.k + i] = best[i];
  });
  if (parts == 1) return;
  for (int64_t group = 0; group < a.groups; ++group) {
    Peak* all = found + group * parts * a.k;
    int64_t n = 0;
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t i = 0; i < number[group * parts + part]; ++i) all[n++] = all[part * a.k + i];
    std::sort(all, all + n);
    put(group, all, n < a.k ? n : a.k);
  }
}

}  // namespace

void peaks_at_f32(PeaksAtArgs<float>& args) { peaks_at(args); }
void peaks_at_f64(PeaksAtArgs<double>& args) { peaks_at(args); }
void topk_peaks_f32(TopkPeaksArgs<float>& args) { topk_peaks(args); }
void topk_peaks_f64(TopkPeaksArgs<double>& args) { topk_peaks(args); }

TENFOLD_END
