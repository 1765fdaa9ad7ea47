// Overlaps of the boxes of many frames, frame by frame.
#pragma once
#include "host/host.h"

// Frame f owns boxes a_offsets[f]..a_offsets[f+1] of a and likewise of b; out holds one block (of a, of b),
// row-major, after the other. kind: 0 image boxes (x1, y1, x2, y2), 1 bird's-eye and 2 volume overlap of boxes
// of 7 columns. mode: 0 iou, 1 intersection, 2 intersection over a's own size. Returns 0, or 1 where a box is not
// finite: bad is then {0 for a or 1 for b, its row} and out is not written.
TENFOLD_HOST int64_t tenfold_host_box_iou(int64_t frames, const int64_t* a_offsets, const int64_t* b_offsets,
                                          const double* a, const double* b, int64_t kind, int64_t mode, double* out,
                                          int64_t* bad);
