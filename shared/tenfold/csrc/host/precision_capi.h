// Average precision from the outcomes of ranked detections.
#pragma once
#include "host/host.h"

// right (n,) 1 or 0 by descending score; score (n,) tells which are equal and is read for kind 0 alone; positives:
// objects there were. kind 0: sum over the ranks of recall step times precision, equal scores in one step. 1: area
// below the envelope, which is the largest precision at this or a higher recall. 2: mean of the envelope at the
// positions (ascending recalls), 0 beyond the last recall. Returns 0.
TENFOLD_HOST int64_t tenfold_host_average_precision(int64_t n, const uint8_t* right, const double* score,
                                                    int64_t positives, int64_t kind, int64_t positions,
                                                    const double* position, double* value);
