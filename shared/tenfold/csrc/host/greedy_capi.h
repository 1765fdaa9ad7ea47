// Greedy matching of detections to ground truth, as other benchmarks than KITTI define it. Frame f owns detections
// det_offsets[f]..det_offsets[f+1] and ground truth gt_offsets[f]..gt_offsets[f+1]; where overlaps are given, its
// block (detections, ground truth), row-major, follows the blocks of the frames before it. `order` holds all
// detections by descending score; what decides between equal scores is the caller's business.
#pragma once
#include "host/host.h"

// nuScenes. Each detection takes the nearest free ground truth of its frame (the first of equals) if its centre is
// nearer than threshold t. match (thresholds, D) holds rows of ground truth or -1, distance (thresholds, D) metres
// to it or infinity; both by rows of detections.
TENFOLD_HOST int64_t tenfold_host_nuscenes(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                           const double* det_xy, const double* gt_xy, const int64_t* order,
                                           int64_t thresholds, const double* threshold, int64_t* match,
                                           double* distance);

// Pascal VOC. Each detection looks at the one ground truth of its frame that it overlaps most (the first of
// equals), taken or not; the overlap must exceed min_overlap, or reach it when inclusive. match (D,) holds that row
// or -1; state (D,): 1 right, 0 wrong (nothing there, or taken), -1 neither (a difficult object).
TENFOLD_HOST int64_t tenfold_host_voc(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                      const double* overlaps, const int64_t* order, const uint8_t* difficult,
                                      double min_overlap, int64_t inclusive, int64_t* match, int8_t* state);

// COCO. Each detection takes the free ground truth that it overlaps most and at least by threshold t, one that
// counts before one that is ignored; of equals the last, counting ones first and in their order. A crowd is never
// used up. match (thresholds, D) rows or -1; ignored (thresholds, D): the match is ignored.
TENFOLD_HOST int64_t tenfold_host_coco(int64_t frames, const int64_t* det_offsets, const int64_t* gt_offsets,
                                       const double* overlaps, const int64_t* order, const uint8_t* gt_ignored,
                                       const uint8_t* gt_crowd, int64_t thresholds, const double* threshold,
                                       int64_t* match, uint8_t* ignored);

// Pairs of a score matrix (rows, columns), best first: every row and column at most once, the lowest flat index of
// equals, only scores >= min_score. match (rows,): the column or -1. Returns the number of pairs.
TENFOLD_HOST int64_t tenfold_host_greedy_assign(int64_t rows, int64_t columns, const double* score,
                                                double min_score, int64_t* match);
