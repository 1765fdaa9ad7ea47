#include "host/matching_capi.h"

#include <cmath>
#include <cstring>

#include "common/arena.h"

namespace tenfold::host {
namespace {

struct Frame {
  int64_t detections;
  int64_t truths;
  const double* overlaps;  // (detections, truths)
  const int8_t* det_state;
  const int8_t* gt_state;
  const double* det_score;

  double overlap(int64_t d, int64_t g) const { return overlaps[d * truths + g]; }
};

int64_t most_detections(int64_t frames, const int64_t* offsets) {
  int64_t most = 0;
  for (int64_t f = 0; f < frames; ++f) {
    const int64_t n = offsets[f + 1] - offsets[f];
    most = n > most ? n : most;
  }
  return most;
}

// Among free detections that overlap enough, the one with the highest score; the first of equals, or -1.
int64_t best_by_score(const Frame& frame, int64_t g, double min_overlap, const bool* taken) {
  int64_t best = -1;
  for (int64_t d = 0; d < frame.detections; ++d) {
    if (frame.det_state[d] < 0 || taken[d] || !(frame.overlap(d, g) > min_overlap)) continue;
    if (best < 0 || frame.det_score[d] > frame.det_score[best]) best = d;
  }
  return best;
}

// Among free detections at or above the threshold, the counting one with the highest overlap; an ignored one
// only where no counting one overlaps enough (the first such).
int64_t best_by_overlap(const Frame& frame, int64_t g, double min_overlap, double threshold, const bool* taken) {
  int64_t best = -1;
  int64_t fallback = -1;
  for (int64_t d = 0; d < frame.detections; ++d) {
    if (frame.det_state[d] < 0 || taken[d] || frame.det_score[d] < threshold) continue;
    const double overlap = frame.overlap(d, g);
    if (!(overlap > min_overlap)) continue;
    if (frame.det_state[d] == 1) {
      if (fallback < 0) fallback = d;
    } else if (best < 0 || overlap > frame.overlap(best, g)) {
      best = d;
    }
  }
  return best >= 0 ? best : fallback;
}

}  // namespace
}  // namespace tenfold::host

using tenfold::Scratch;
using namespace tenfold::host;

TENFOLD_HOST int64_t tenfold_host_kitti_scores(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                               const double* overlaps, const int8_t* det_state,
                                               const int8_t* gt_state, const double* det_score, double min_overlap,
                                               double* scores_out) {
  return guarded([&] {
    Scratch scratch;
    bool* taken = scratch.take<bool>(most_detections(frames, det_offsets));
    int64_t found = 0;
    for (int64_t f = 0; f < frames; ++f) {
      const int64_t d0 = det_offsets[f];
      const int64_t g0 = gt_offsets[f];
      const Frame frame{det_offsets[f + 1] - d0, gt_offsets[f + 1] - g0, overlaps, det_state + d0, gt_state + g0,
                        det_score + d0};
      overlaps += frame.detections * frame.truths;
      std::memset(taken, 0, static_cast<size_t>(frame.detections) * sizeof(bool));
      for (int64_t g = 0; g < frame.truths; ++g) {
        if (frame.gt_state[g] < 0) continue;
        const int64_t d = best_by_score(frame, g, min_overlap, taken);
        if (d < 0) continue;
        taken[d] = true;
        if (frame.gt_state[g] == 0 && frame.det_state[d] == 0) scores_out[found++] = frame.det_score[d];
      }
    }
    return found;
  });
}

TENFOLD_HOST int64_t tenfold_host_kitti_counts(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                               const double* overlaps, const int8_t* det_state,
                                               const int8_t* gt_state, const double* det_score,
                                               const double* det_alpha, const double* gt_alpha,
                                               const double* dontcare, double min_overlap, int64_t thresholds,
                                               const double* threshold, int64_t* counts_out,
                                               double* similarity_out) {
  return guarded([&]() -> int64_t {
    Scratch scratch;
    bool* taken = scratch.take<bool>(most_detections(frames, det_offsets));
    std::memset(counts_out, 0, static_cast<size_t>(thresholds) * 3 * sizeof(int64_t));
    std::memset(similarity_out, 0, static_cast<size_t>(thresholds) * sizeof(double));
    for (int64_t f = 0; f < frames; ++f) {
      const int64_t d0 = det_offsets[f];
      const int64_t g0 = gt_offsets[f];
      const Frame frame{det_offsets[f + 1] - d0, gt_offsets[f + 1] - g0, overlaps, det_state + d0, gt_state + g0,
                        det_score + d0};
      overlaps += frame.detections * frame.truths;
      for (int64_t t = 0; t < thresholds; ++t) {
        int64_t* counts = counts_out + 3 * t;
        std::memset(taken, 0, static_cast<size_t>(frame.detections) * sizeof(bool));
        for (int64_t g = 0; g < frame.truths; ++g) {
          if (frame.gt_state[g] < 0) continue;
          const int64_t d = best_by_overlap(frame, g, min_overlap, threshold[t], taken);
          if (d < 0) {
            counts[2] += frame.gt_state[g] == 0;
            continue;
          }
          taken[d] = true;
          if (frame.gt_state[g] != 0 || frame.det_state[d] != 0) continue;
          ++counts[0];
          similarity_out[t] += 0.5 * (1.0 + std::cos(gt_alpha[g0 + g] - det_alpha[d0 + d]));
        }
        for (int64_t d = 0; d < frame.detections; ++d) {
          const bool counted = !taken[d] && frame.det_state[d] == 0 && !(frame.det_score[d] < threshold[t]);
          counts[1] += counted && !(dontcare[d0 + d] > min_overlap);
        }
      }
    }
    return 0;
  });
}
