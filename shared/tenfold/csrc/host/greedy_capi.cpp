#include "host/greedy_capi.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/arena.h"

namespace tenfold::host {
namespace {

constexpr double kFar = std::numeric_limits<double>::infinity();

// Which frame each detection belongs to and where that frame's block of overlaps starts.
struct Places {
  int64_t* frame;
  int64_t* block;

  Places(Scratch& scratch, int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets)
      : frame(scratch.take<int64_t>(det_offsets[frames])), block(scratch.take<int64_t>(frames)) {
    int64_t entries = 0;
    for (int64_t f = 0; f < frames; ++f) {
      block[f] = entries;
      entries += (det_offsets[f + 1] - det_offsets[f]) * (gt_offsets[f + 1] - gt_offsets[f]);
      std::fill(frame + det_offsets[f], frame + det_offsets[f + 1], f);
    }
  }
};

// sqrt of a sum of squares that neither overflows nor vanishes for centres of any size.
double away(const double* a, const double* b) {
  const double dx = a[0] - b[0];
  const double dy = a[1] - b[1];
  const double square = dx * dx + dy * dy;
  return square > 1e-280 && square < kFar ? std::sqrt(square) : std::hypot(dx, dy);
}

void match_by_distance(const Places& places, const int64_t* gt_offsets, const double* det_xy, const double* gt_xy,
                       const int64_t* order, int64_t detections, double threshold, bool* taken, int64_t* match,
                       double* distance) {
  for (int64_t i = 0; i < detections; ++i) {
    const int64_t d = order[i];
    const int64_t f = places.frame[d];
    double nearest = kFar;
    int64_t best = -1;
    for (int64_t g = gt_offsets[f]; g < gt_offsets[f + 1]; ++g) {
      if (taken[g]) continue;
      const double here = away(det_xy + 2 * d, gt_xy + 2 * g);
      if (here < nearest) nearest = here, best = g;
    }
    const bool found = best >= 0 && nearest < threshold;
    if (found) taken[best] = true;
    match[d] = found ? best : -1;
    distance[d] = found ? nearest : kFar;
  }
}

// The ground truth of each frame, those that count before the ignored ones, each kind in its order.
int64_t* counting_first(Scratch& scratch, int64_t frames, const int64_t* gt_offsets, const uint8_t* gt_ignored) {
  int64_t* rows = scratch.take<int64_t>(gt_offsets[frames]);
  for (int64_t f = 0; f < frames; ++f) {
    int64_t* out = rows + gt_offsets[f];
    for (int kind = 0; kind < 2; ++kind)
      for (int64_t g = gt_offsets[f]; g < gt_offsets[f + 1]; ++g)
        if ((gt_ignored[g] != 0) == (kind != 0)) *out++ = g;
  }
  return rows;
}

// The best ground truth among rows begin..end for overlaps of one detection, indexed by g - begin of the frame.
int64_t best_coco(const int64_t* begin, const int64_t* end, const double* overlap, double threshold,
                  const bool* taken, const uint8_t* gt_ignored, const uint8_t* gt_crowd, int64_t first) {
  // An overlap of exactly 1 must pass a threshold of 1 although it was computed with rounding.
  double bar = std::min(threshold, 1.0 - 1e-10);
  int64_t best = -1;
  for (const int64_t* row = begin; row < end; ++row) {
    const int64_t g = *row;
    if (taken[g] && !gt_crowd[g]) continue;
    if (best >= 0 && !gt_ignored[best] && gt_ignored[g]) break;
    if (!(overlap[g - first] >= bar)) continue;
    bar = overlap[g - first];
    best = g;
  }
  return best;
}

}  // namespace
}  // namespace tenfold::host

using tenfold::Scratch;
using namespace tenfold::host;

TENFOLD_HOST int64_t tenfold_host_nuscenes(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                           const double* det_xy, const double* gt_xy, const int64_t* order,
                                           int64_t thresholds, const double* threshold, int64_t* match,
                                           double* distance) {
  return guarded([&]() -> int64_t {
    Scratch scratch;
    const int64_t detections = det_offsets[frames];
    const Places places(scratch, frames, det_offsets, gt_offsets);
    bool* taken = scratch.take<bool>(gt_offsets[frames]);
    for (int64_t t = 0; t < thresholds; ++t) {
      std::memset(taken, 0, static_cast<size_t>(gt_offsets[frames]) * sizeof(bool));
      match_by_distance(places, gt_offsets, det_xy, gt_xy, order, detections, threshold[t], taken,
                        match + t * detections, distance + t * detections);
    }
    return 0;
  });
}

TENFOLD_HOST int64_t tenfold_host_voc(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                      const double* overlaps, const int64_t* order, const uint8_t* difficult,
                                      double min_overlap, int64_t inclusive, int64_t* match, int8_t* state) {
  return guarded([&]() -> int64_t {
    Scratch scratch;
    const Places places(scratch, frames, det_offsets, gt_offsets);
    bool* taken = scratch.zeros<bool>(gt_offsets[frames]);
    for (int64_t i = 0; i < det_offsets[frames]; ++i) {
      const int64_t d = order[i];
      const int64_t f = places.frame[d];
      const int64_t truths = gt_offsets[f + 1] - gt_offsets[f];
      const double* row = overlaps + places.block[f] + (d - det_offsets[f]) * truths;
      const int64_t at = std::max_element(row, row + truths) - row;
      const bool found = truths > 0 && (inclusive ? row[at] >= min_overlap : row[at] > min_overlap);
      const int64_t g = gt_offsets[f] + at;
      match[d] = found ? g : -1;
      if (found && difficult[g]) {
        state[d] = -1;
      } else {
        state[d] = found && !taken[g];
        if (found) taken[g] = true;
      }
    }
    return 0;
  });
}

TENFOLD_HOST int64_t tenfold_host_coco(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                       const double* overlaps, const int64_t* order, const uint8_t* gt_ignored,
                                       const uint8_t* gt_crowd, int64_t thresholds, const double* threshold,
                                       int64_t* match, uint8_t* ignored) {
  return guarded([&]() -> int64_t {
    Scratch scratch;
    const int64_t detections = det_offsets[frames];
    const Places places(scratch, frames, det_offsets, gt_offsets);
    const int64_t* rows = counting_first(scratch, frames, gt_offsets, gt_ignored);
    bool* taken = scratch.take<bool>(gt_offsets[frames]);
    for (int64_t t = 0; t < thresholds; ++t) {
      std::memset(taken, 0, static_cast<size_t>(gt_offsets[frames]) * sizeof(bool));
      for (int64_t i = 0; i < detections; ++i) {
        const int64_t d = order[i];
        const int64_t f = places.frame[d];
        const int64_t first = gt_offsets[f];
        const double* overlap = overlaps + places.block[f] + (d - det_offsets[f]) * (gt_offsets[f + 1] - first);
        const int64_t g = best_coco(rows + first, rows + gt_offsets[f + 1], overlap, threshold[t], taken,
                                    gt_ignored, gt_crowd, first);
        if (g >= 0) taken[g] = true;
        match[t * detections + d] = g;
        ignored[t * detections + d] = g >= 0 && gt_ignored[g];
      }
    }
    return 0;
  });
}

TENFOLD_HOST int64_t tenfold_host_greedy_assign(int64_t rows, int64_t columns, const double* score,
                                                double min_score, int64_t* match) {
  return guarded([&]() -> int64_t {
    Scratch scratch;
    int64_t* pairs = scratch.take<int64_t>(rows * columns);
    int64_t n = 0;
    for (int64_t i = 0; i < rows * columns; ++i)
      if (score[i] >= min_score) pairs[n++] = i;
    std::sort(pairs, pairs + n,
              [score](int64_t a, int64_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
    bool* taken = scratch.zeros<bool>(columns);
    std::fill(match, match + rows, int64_t{-1});
    int64_t found = 0;
    for (int64_t i = 0; i < n && found < std::min(rows, columns); ++i) {
      const int64_t row = pairs[i] / columns;
      const int64_t column = pairs[i] % columns;
      if (match[row] >= 0 || taken[column]) continue;
      match[row] = column;
      taken[column] = true;
      ++found;
    }
    return found;
  });
}
