// Matching loops of detection metrics: sequential by definition, so they are loops here and not array code.
#pragma once
#include "host/host.h"

// One class, difficulty and metric of the KITTI object evaluation over all frames. Frame f owns detections
// det_offsets[f]..det_offsets[f+1] and ground truth gt_offsets[f]..gt_offsets[f+1]; its overlaps are the block
// (detections, ground truth), row-major, that follows the blocks of the frames before it. States: 0 counts,
// 1 is ignored, -1 belongs to another class.

// Scores of the true positives with no score threshold: candidates for the recall-spaced thresholds.
// scores_out has room for one entry per ground truth; returns how many were written.
TENFOLD_HOST int64_t tenfold_host_kitti_scores(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                               const double* overlaps, const int8_t* det_state,
                                               const int8_t* gt_state, const double* det_score, double min_overlap,
                                               double* scores_out);

// Counts at every threshold. dontcare holds the largest share of each detection's area inside a DontCare box
// (zeros for metrics without them). counts_out is (thresholds, 3): true positives, false positives, misses;
// similarity_out is (thresholds,): sum over true positives of (1 + cos(alpha_gt - alpha_det)) / 2.
TENFOLD_HOST int64_t tenfold_host_kitti_counts(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                               const double* overlaps, const int8_t* det_state,
                                               const int8_t* gt_state, const double* det_score,
                                               const double* det_alpha, const double* gt_alpha,
                                               const double* dontcare, double min_overlap, int64_t thresholds,
                                               const double* threshold, int64_t* counts_out,
                                               double* similarity_out);
