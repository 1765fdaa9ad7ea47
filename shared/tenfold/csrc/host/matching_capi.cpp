#include "host/matching_capi.h"

#include <algorithm>
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

struct Largest {
  int64_t detections = 0;
  int64_t truths = 0;
  int64_t pairs = 0;
};

// Sizes that serve every frame's scratch memory.
Largest largest_frame(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets) {
  Largest most;
  for (int64_t f = 0; f < frames; ++f) {
    const int64_t d = det_offsets[f + 1] - det_offsets[f];
    const int64_t g = gt_offsets[f + 1] - gt_offsets[f];
    most.detections = std::max(most.detections, d);
    most.truths = std::max(most.truths, g);
    most.pairs = std::max(most.pairs, d * g);
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

// What is left to look at for every threshold: the pairs that overlap enough, by ground truth in order, and the
// detections that may count as false positives.
struct Candidates {
  int64_t* truth;      // ground truth that takes part
  int64_t* pair_end;   // the end of its pairs
  int64_t* detection;  // of each pair, ascending within a ground truth
  int64_t* wrong;
  int64_t truths = 0;
  int64_t wrongs = 0;
};

void find_candidates(const Frame& frame, const double* dontcare, double min_overlap, Candidates& c) {
  c.truths = c.wrongs = 0;
  int64_t pairs = 0;
  for (int64_t g = 0; g < frame.truths; ++g) {
    if (frame.gt_state[g] < 0) continue;
    for (int64_t d = 0; d < frame.detections; ++d)
      if (frame.det_state[d] >= 0 && frame.overlap(d, g) > min_overlap) c.detection[pairs++] = d;
    c.truth[c.truths] = g;
    c.pair_end[c.truths++] = pairs;
  }
  for (int64_t d = 0; d < frame.detections; ++d)
    if (frame.det_state[d] == 0 && !(dontcare[d] > min_overlap)) c.wrong[c.wrongs++] = d;
}

// Among free detections at or above the threshold, the counting one with the highest overlap; an ignored one
// only where no counting one overlaps enough (the first such).
int64_t best_by_overlap(const Frame& frame, int64_t g, const int64_t* begin, const int64_t* end, double threshold,
                        const bool* taken) {
  int64_t best = -1;
  int64_t fallback = -1;
  for (const int64_t* d = begin; d < end; ++d) {
    if (taken[*d] || frame.det_score[*d] < threshold) continue;
    if (frame.det_state[*d] == 1) {
      if (fallback < 0) fallback = *d;
    } else if (best < 0 || frame.overlap(*d, g) > frame.overlap(best, g)) {
      best = *d;
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
    bool* taken = scratch.take<bool>(largest_frame(frames, det_offsets, gt_offsets).detections);
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
    const Largest most = largest_frame(frames, det_offsets, gt_offsets);
    bool* taken = scratch.take<bool>(most.detections);
    Candidates c{scratch.take<int64_t>(most.truths), scratch.take<int64_t>(most.truths),
                 scratch.take<int64_t>(most.pairs), scratch.take<int64_t>(most.detections)};
    std::memset(counts_out, 0, static_cast<size_t>(thresholds) * 3 * sizeof(int64_t));
    std::memset(similarity_out, 0, static_cast<size_t>(thresholds) * sizeof(double));
    for (int64_t f = 0; f < frames; ++f) {
      const int64_t d0 = det_offsets[f];
      const int64_t g0 = gt_offsets[f];
      const Frame frame{det_offsets[f + 1] - d0, gt_offsets[f + 1] - g0, overlaps, det_state + d0, gt_state + g0,
                        det_score + d0};
      overlaps += frame.detections * frame.truths;
      find_candidates(frame, dontcare + d0, min_overlap, c);
      for (int64_t t = 0; t < thresholds; ++t) {
        int64_t* counts = counts_out + 3 * t;
        std::memset(taken, 0, static_cast<size_t>(frame.detections) * sizeof(bool));
        for (int64_t i = 0; i < c.truths; ++i) {
          const int64_t g = c.truth[i];
          const int64_t begin = i == 0 ? 0 : c.pair_end[i - 1];
          const int64_t d =
              best_by_overlap(frame, g, c.detection + begin, c.detection + c.pair_end[i], threshold[t], taken);
          if (d < 0) {
            counts[2] += frame.gt_state[g] == 0;
            continue;
          }
          taken[d] = true;
          if (frame.gt_state[g] != 0 || frame.det_state[d] != 0) continue;
          ++counts[0];
          similarity_out[t] += 0.5 * (1.0 + std::cos(gt_alpha[g0 + g] - det_alpha[d0 + d]));
        }
        for (int64_t i = 0; i < c.wrongs; ++i) {
          const int64_t d = c.wrong[i];
          counts[1] += !taken[d] && !(frame.det_score[d] < threshold[t]);
        }
      }
    }
    return 0;
  });
}
